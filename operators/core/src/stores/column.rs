//! Columns on their way into a row's bytes and back: [`Source`] gives the values of an array row by row, [`Builder`]
//! collects values into an array.

use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, BooleanBufferBuilder, FixedSizeBinaryArray, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowNativeType, DataType, FieldRef};
use arrow::error::ArrowError;

use super::bytes::{Reader, put_bytes, put_i128, put_u64};

/// How values of a type are laid out in memory. Types that differ in unit, zone or precision only are the same here.
#[derive(Clone, Debug, PartialEq)]
enum Physical {
    Null,
    Bool,
    I8,
    I16,
    I32,
    I64,
    I128,
    U8,
    U16,
    U32,
    U64,
    F32,
    F64,
    /// Texts and byte strings.
    Bytes,
    Fixed(usize),
    /// Lists and maps.
    List(FieldRef),
    Struct(Vec<FieldRef>),
}

fn physical(data_type: &DataType) -> Option<Physical> {
    use DataType::*;
    Some(match data_type {
        Null => Physical::Null,
        Boolean => Physical::Bool,
        Int8 => Physical::I8,
        Int16 => Physical::I16,
        Int32 | Date32 | Time32(_) => Physical::I32,
        Int64 | Date64 | Time64(_) | Timestamp(_, _) | Duration(_) => Physical::I64,
        Decimal128(_, _) => Physical::I128,
        UInt8 => Physical::U8,
        UInt16 => Physical::U16,
        UInt32 => Physical::U32,
        UInt64 => Physical::U64,
        Float32 => Physical::F32,
        Float64 => Physical::F64,
        Utf8 | Binary => Physical::Bytes,
        FixedSizeBinary(width) => Physical::Fixed(usize::try_from(*width).ok()?),
        List(item) => Physical::List(item.clone()),
        Map(entries, _) => Physical::List(entries.clone()),
        Struct(fields) => Physical::Struct(fields.iter().cloned().collect()),
        _ => return None,
    })
}

/// True for the types that rows in state can have, with everything inside them.
pub(super) fn is_storable(data_type: &DataType) -> bool {
    match physical(data_type) {
        None => false,
        Some(Physical::List(item)) => is_storable(item.data_type()),
        Some(Physical::Struct(fields)) => fields.iter().all(|field| is_storable(field.data_type())),
        Some(_) => true,
    }
}

/// The values of one array.
#[derive(Debug)]
pub(super) struct Source {
    nulls: Option<NullBuffer>,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Null,
    Bool(BooleanBuffer),
    I8(ScalarBuffer<i8>),
    I16(ScalarBuffer<i16>),
    I32(ScalarBuffer<i32>),
    I64(ScalarBuffer<i64>),
    I128(ScalarBuffer<i128>),
    U8(ScalarBuffer<u8>),
    U16(ScalarBuffer<u16>),
    U32(ScalarBuffer<u32>),
    U64(ScalarBuffer<u64>),
    F32(ScalarBuffer<f32>),
    F64(ScalarBuffer<f64>),
    Bytes { offsets: OffsetBuffer<i32>, bytes: Buffer },
    Fixed(FixedSizeBinaryArray),
    List { offsets: OffsetBuffer<i32>, items: Box<Source> },
    Struct(Vec<Source>),
}

/// The values of a primitive array, whatever its logical type.
fn scalars<T: ArrowNativeType>(data: &ArrayData) -> Option<ScalarBuffer<T>> {
    Some(ScalarBuffer::new(data.buffers().first()?.clone(), data.offset(), data.len()))
}

impl Source {
    /// `None` for a type that is not storable.
    pub(super) fn new(array: &ArrayRef) -> Option<Source> {
        let scalar = || array.to_data();
        let values = match physical(array.data_type())? {
            Physical::Null => Values::Null,
            Physical::Bool => Values::Bool(array.as_boolean().values().clone()),
            Physical::I8 => Values::I8(scalars(&scalar())?),
            Physical::I16 => Values::I16(scalars(&scalar())?),
            Physical::I32 => Values::I32(scalars(&scalar())?),
            Physical::I64 => Values::I64(scalars(&scalar())?),
            Physical::I128 => Values::I128(scalars(&scalar())?),
            Physical::U8 => Values::U8(scalars(&scalar())?),
            Physical::U16 => Values::U16(scalars(&scalar())?),
            Physical::U32 => Values::U32(scalars(&scalar())?),
            Physical::U64 => Values::U64(scalars(&scalar())?),
            Physical::F32 => Values::F32(scalars(&scalar())?),
            Physical::F64 => Values::F64(scalars(&scalar())?),
            Physical::Bytes => match array.as_string_opt::<i32>() {
                Some(texts) => Values::Bytes { offsets: texts.offsets().clone(), bytes: texts.values().clone() },
                None => {
                    let strings = array.as_binary_opt::<i32>()?;
                    Values::Bytes { offsets: strings.offsets().clone(), bytes: strings.values().clone() }
                }
            },
            Physical::Fixed(_) => Values::Fixed(array.as_fixed_size_binary().clone()),
            Physical::List(_) => match array.data_type() {
                DataType::Map(_, _) => {
                    let (map, entries) = (array.as_map(), Arc::new(array.as_map().entries().clone()) as ArrayRef);
                    Values::List { offsets: map.offsets().clone(), items: Box::new(Source::new(&entries)?) }
                }
                _ => {
                    let list = array.as_list::<i32>();
                    Values::List { offsets: list.offsets().clone(), items: Box::new(Source::new(list.values())?) }
                }
            },
            Physical::Struct(_) => Values::Struct(array.as_struct().columns().iter().map(Source::new).collect::<Option<_>>()?),
        };
        Some(Source { nulls: array.nulls().cloned(), values })
    }

    #[inline]
    pub(super) fn is_null(&self, row: usize) -> bool {
        matches!(self.values, Values::Null) || self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    /// Appends the value in `row`, which must not be null.
    pub(super) fn put(&self, row: usize, out: &mut Vec<u8>) {
        match &self.values {
            Values::Null => {}
            Values::Bool(v) => out.push(v.value(row).into()),
            Values::I8(v) => signed(v.get(row), out),
            Values::I16(v) => signed(v.get(row), out),
            Values::I32(v) => signed(v.get(row), out),
            Values::I64(v) => signed(v.get(row), out),
            Values::I128(v) => put_i128(v.get(row).copied().unwrap_or_default(), out),
            Values::U8(v) => unsigned(v.get(row), out),
            Values::U16(v) => unsigned(v.get(row), out),
            Values::U32(v) => unsigned(v.get(row), out),
            Values::U64(v) => unsigned(v.get(row), out),
            Values::F32(v) => out.extend_from_slice(&v.get(row).copied().unwrap_or_default().to_bits().to_be_bytes()),
            Values::F64(v) => out.extend_from_slice(&v.get(row).copied().unwrap_or_default().to_bits().to_be_bytes()),
            Values::Bytes { offsets, bytes } => put_bytes(bytes.get(range(offsets, row)).unwrap_or_default(), out),
            Values::Fixed(v) => out.extend_from_slice(v.value(row)),
            Values::List { offsets, items } => {
                let range = range(offsets, row);
                put_u64(range.len() as u64, out);
                put_all(range.map(|item| (items.as_ref(), item)), out);
            }
            Values::Struct(columns) => put_all(columns.iter().map(|column| (column, row)), out),
        }
    }
}

fn signed<T: Copy + Into<i128>>(value: Option<&T>, out: &mut Vec<u8>) {
    put_i128(value.map_or(0, |v| (*v).into()), out);
}

fn unsigned<T: Copy + Into<u64>>(value: Option<&T>, out: &mut Vec<u8>) {
    put_u64(value.map_or(0, |v| (*v).into()), out);
}

fn range(offsets: &OffsetBuffer<i32>, row: usize) -> std::ops::Range<usize> {
    let at = |row: usize| offsets.get(row).map_or(0, |offset| *offset as usize);
    at(row)..at(row + 1)
}

/// Appends which of these values are there, a bit each from the lowest, then those that are.
pub(super) fn put_all<'a>(values: impl Iterator<Item = (&'a Source, usize)> + Clone, out: &mut Vec<u8>) {
    let (mut bits, mut count) = (0u8, 0u32);
    for (source, row) in values.clone() {
        bits |= u8::from(!source.is_null(row)) << (count % 8);
        count += 1;
        if count % 8 == 0 {
            out.push(std::mem::take(&mut bits));
        }
    }
    if count % 8 > 0 {
        out.push(bits);
    }
    for (source, row) in values {
        if !source.is_null(row) {
            source.put(row, out);
        }
    }
}

/// Collects values into an array.
#[derive(Debug)]
pub(super) struct Builder {
    data_type: DataType,
    valid: BooleanBufferBuilder,
    collected: Collected,
}

#[derive(Debug)]
enum Collected {
    Null,
    Bool(BooleanBufferBuilder),
    I8(Vec<i8>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    I128(Vec<i128>),
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bytes { offsets: Vec<i32>, bytes: Vec<u8> },
    Fixed { width: usize, bytes: Vec<u8> },
    List { offsets: Vec<i32>, items: Box<Builder> },
    Struct(Vec<Builder>),
}

impl Builder {
    /// `None` for a type that is not storable.
    pub(super) fn new(data_type: &DataType) -> Option<Builder> {
        let collected = match physical(data_type)? {
            Physical::Null => Collected::Null,
            Physical::Bool => Collected::Bool(BooleanBufferBuilder::new(0)),
            Physical::I8 => Collected::I8(Vec::new()),
            Physical::I16 => Collected::I16(Vec::new()),
            Physical::I32 => Collected::I32(Vec::new()),
            Physical::I64 => Collected::I64(Vec::new()),
            Physical::I128 => Collected::I128(Vec::new()),
            Physical::U8 => Collected::U8(Vec::new()),
            Physical::U16 => Collected::U16(Vec::new()),
            Physical::U32 => Collected::U32(Vec::new()),
            Physical::U64 => Collected::U64(Vec::new()),
            Physical::F32 => Collected::F32(Vec::new()),
            Physical::F64 => Collected::F64(Vec::new()),
            Physical::Bytes => Collected::Bytes { offsets: vec![0], bytes: Vec::new() },
            Physical::Fixed(width) => Collected::Fixed { width, bytes: Vec::new() },
            Physical::List(item) => Collected::List { offsets: vec![0], items: Box::new(Builder::new(item.data_type())?) },
            Physical::Struct(fields) => {
                Collected::Struct(fields.iter().map(|field| Builder::new(field.data_type())).collect::<Option<_>>()?)
            }
        };
        Some(Builder { data_type: data_type.clone(), valid: BooleanBufferBuilder::new(0), collected })
    }

    pub(super) fn push_null(&mut self) {
        self.valid.append(false);
        match &mut self.collected {
            Collected::Null => {}
            Collected::Bool(v) => v.append(false),
            Collected::I8(v) => v.push(0),
            Collected::I16(v) => v.push(0),
            Collected::I32(v) => v.push(0),
            Collected::I64(v) => v.push(0),
            Collected::I128(v) => v.push(0),
            Collected::U8(v) => v.push(0),
            Collected::U16(v) => v.push(0),
            Collected::U32(v) => v.push(0),
            Collected::U64(v) => v.push(0),
            Collected::F32(v) => v.push(0.0),
            Collected::F64(v) => v.push(0.0),
            Collected::Bytes { offsets, .. } | Collected::List { offsets, .. } => offsets.push(offsets.last().copied().unwrap_or(0)),
            Collected::Fixed { width, bytes } => bytes.resize(bytes.len() + *width, 0),
            Collected::Struct(columns) => columns.iter_mut().for_each(Builder::push_null),
        }
    }

    /// Reads a value that is there; `None` if the bytes do not hold one.
    pub(super) fn push(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.valid.append(true);
        match &mut self.collected {
            // It is never there.
            Collected::Null => return None,
            Collected::Bool(v) => match reader.u8()? {
                bit @ (0 | 1) => v.append(bit == 1),
                _ => return None,
            },
            Collected::I8(v) => v.push(reader.i128()?.try_into().ok()?),
            Collected::I16(v) => v.push(reader.i128()?.try_into().ok()?),
            Collected::I32(v) => v.push(reader.i128()?.try_into().ok()?),
            Collected::I64(v) => v.push(reader.i64()?),
            Collected::I128(v) => v.push(reader.i128()?),
            Collected::U8(v) => v.push(reader.u64()?.try_into().ok()?),
            Collected::U16(v) => v.push(reader.u64()?.try_into().ok()?),
            Collected::U32(v) => v.push(reader.u64()?.try_into().ok()?),
            Collected::U64(v) => v.push(reader.u64()?),
            Collected::F32(v) => v.push(f32::from_bits(u32::from_be_bytes(reader.array()?))),
            Collected::F64(v) => v.push(reader.f64()?),
            Collected::Bytes { offsets, bytes } => {
                bytes.extend_from_slice(reader.bytes()?);
                offsets.push(i32::try_from(bytes.len()).ok()?);
            }
            Collected::Fixed { width, bytes } => bytes.extend_from_slice(reader.take(*width)?),
            Collected::List { offsets, items } => {
                let count = usize::try_from(reader.u64()?).ok()?;
                let there = reader.take(count.div_ceil(8))?;
                for item in 0..count {
                    items.push_if(bit(there, item), reader)?;
                }
                offsets.push(i32::try_from(items.len()).ok()?);
            }
            Collected::Struct(columns) => read_all(columns, reader)?,
        }
        Some(())
    }

    fn push_if(&mut self, there: bool, reader: &mut Reader<'_>) -> Option<()> {
        if there {
            return self.push(reader);
        }
        self.push_null();
        Some(())
    }

    pub(super) fn len(&self) -> usize {
        self.valid.len()
    }

    /// The array of everything collected.
    ///
    /// # Errors
    /// A value is not one of the type: null where it allows none, or a text that is not UTF-8.
    pub(super) fn finish(mut self) -> Result<ArrayRef, ArrowError> {
        let length = self.valid.len();
        let nulls = Some(NullBuffer::new(self.valid.finish())).filter(|nulls| nulls.null_count() > 0);
        let data = ArrayData::builder(self.data_type.clone()).len(length).nulls(nulls);
        let data = match self.collected {
            Collected::Null => ArrayData::builder(self.data_type).len(length),
            Collected::Bool(mut v) => data.add_buffer(v.finish().into_inner()),
            Collected::I8(v) => data.add_buffer(Buffer::from_vec(v)),
            Collected::I16(v) => data.add_buffer(Buffer::from_vec(v)),
            Collected::I32(v) => data.add_buffer(Buffer::from_vec(v)),
            Collected::I64(v) => data.add_buffer(Buffer::from_vec(v)),
            Collected::I128(v) => data.add_buffer(Buffer::from_vec(v)),
            Collected::U8(v) => data.add_buffer(Buffer::from_vec(v)),
            Collected::U16(v) => data.add_buffer(Buffer::from_vec(v)),
            Collected::U32(v) => data.add_buffer(Buffer::from_vec(v)),
            Collected::U64(v) => data.add_buffer(Buffer::from_vec(v)),
            Collected::F32(v) => data.add_buffer(Buffer::from_vec(v)),
            Collected::F64(v) => data.add_buffer(Buffer::from_vec(v)),
            Collected::Bytes { offsets, bytes } => data.add_buffer(Buffer::from_vec(offsets)).add_buffer(Buffer::from_vec(bytes)),
            Collected::Fixed { bytes, .. } => data.add_buffer(Buffer::from_vec(bytes)),
            Collected::List { offsets, items } => data.add_buffer(Buffer::from_vec(offsets)).add_child_data(items.finish()?.to_data()),
            Collected::Struct(columns) => {
                let columns = columns.into_iter().map(|column| Ok(column.finish()?.to_data()));
                data.child_data(columns.collect::<Result<Vec<_>, ArrowError>>()?)
            }
        };
        Ok(make_array(data.build()?))
    }
}

/// Reads what [`put_all`] wrote, one value for each builder.
pub(super) fn read_all(columns: &mut [Builder], reader: &mut Reader<'_>) -> Option<()> {
    let there = reader.take(columns.len().div_ceil(8))?;
    columns.iter_mut().enumerate().try_for_each(|(place, column)| column.push_if(bit(there, place), reader))
}

fn bit(bits: &[u8], place: usize) -> bool {
    bits.get(place / 8).is_some_and(|byte| byte >> (place % 8) & 1 == 1)
}
