//! Compact binary for values in state: varints, big-endian floats, length-prefixed bytes. Reading never panics and
//! never allocates more than the available bytes: every read answers `None` when the bytes do not hold what was asked.
//! What is written here is on disk and in changelogs: the encoding does not change.

/// Appends `value` as a base-128 varint, lowest seven bits first.
#[inline]
pub fn put_u64(value: u64, out: &mut Vec<u8>) {
    put_u128(value.into(), out);
}

/// Appends `value` zigzag-coded, so that small negative numbers stay short.
#[inline]
pub fn put_i128(value: i128, out: &mut Vec<u8>) {
    put_u128(((value << 1) ^ (value >> 127)) as u128, out);
}

/// Appends the bit pattern of `value`, big-endian.
#[inline]
pub fn put_f64(value: f64, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_bits().to_be_bytes());
}

/// Appends `bytes` with their length before them.
#[inline]
pub fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_u64(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Appends `value` so that the order of the bytes is the order of the numbers: big-endian, sign flipped.
#[inline]
pub fn put_ordered(value: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(&((value as u64) ^ (1 << 63)).to_be_bytes());
}

/// The first bytes after all that begin with `prefix`; empty if there are none.
pub fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            break;
        }
    }
    end
}

pub(crate) fn put_u128(mut value: u128, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads what the `put_` functions wrote, from the front.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes }
    }

    /// What has not been read yet.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    #[inline]
    pub fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    #[inline]
    pub fn u64(&mut self) -> Option<u64> {
        self.u128()?.try_into().ok()
    }

    #[inline]
    pub fn i128(&mut self) -> Option<i128> {
        let coded = self.u128()?;
        Some((coded >> 1) as i128 ^ -((coded & 1) as i128))
    }

    #[inline]
    pub fn i64(&mut self) -> Option<i64> {
        self.i128()?.try_into().ok()
    }

    #[inline]
    pub fn f64(&mut self) -> Option<f64> {
        Some(f64::from_bits(u64::from_be_bytes(self.array()?)))
    }

    /// Reads what [`put_ordered`] wrote.
    #[inline]
    pub fn ordered(&mut self) -> Option<i64> {
        Some((u64::from_be_bytes(self.array()?) ^ (1 << 63)) as i64)
    }

    #[inline]
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u64()?.try_into().ok()?;
        self.take(length)
    }

    /// The next `length` bytes.
    #[inline]
    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(taken)
    }

    /// The next `N` bytes, for fixed-width numbers.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = rest;
        Some(*taken)
    }

    pub(crate) fn u128(&mut self) -> Option<u128> {
        let mut value = 0u128;
        for shift in (0..128).step_by(7) {
            let byte = self.u8()?;
            let bits = u128::from(byte & 0x7f);
            if shift == 126 && bits > 3 {
                return None; // more than 128 bits
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_was_written() {
        let numbers = [0, 1, -1, 63, 64, -65, i64::MAX as i128, i64::MIN as i128, i128::MAX, i128::MIN];
        let mut out = Vec::new();
        numbers.iter().for_each(|n| put_i128(*n, &mut out));
        put_u64(u64::MAX, &mut out);
        put_f64(-0.5, &mut out);
        put_bytes(b"abc", &mut out);
        let mut reader = Reader::new(&out);
        for number in numbers {
            assert_eq!(reader.i128(), Some(number));
        }
        assert_eq!(reader.u64(), Some(u64::MAX));
        assert_eq!(reader.f64(), Some(-0.5));
        assert_eq!(reader.bytes(), Some(&b"abc"[..]));
        assert!(reader.is_empty());
    }

    #[test]
    fn ordered_numbers_sort_as_bytes() {
        let numbers = [i64::MIN, -60_000, -1, 0, 1, 60_000, i64::MAX];
        let coded: Vec<Vec<u8>> = numbers
            .iter()
            .map(|n| {
                let mut out = Vec::new();
                put_ordered(*n, &mut out);
                out
            })
            .collect();
        assert!(coded.is_sorted());
        let read: Vec<i64> = coded.iter().filter_map(|bytes| Reader::new(bytes).ordered()).collect();
        assert_eq!(read, numbers);
    }

    #[test]
    fn the_range_of_a_prefix_ends_behind_it() {
        assert_eq!(after(&[1, 2]), [1, 3]);
        assert_eq!(after(&[1, 255]), [2]);
        assert!(after(&[255]).is_empty());
    }

    #[test]
    fn refuses_bytes_that_hold_less_than_they_say() {
        assert_eq!(Reader::new(&[]).u64(), None);
        assert_eq!(Reader::new(&[0xff; 40]).i128(), None);
        assert_eq!(Reader::new(&[5, 1, 2]).bytes(), None);
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]).u64(), None);
        assert_eq!(Reader::new(&[1, 2, 3]).f64(), None);
    }
}
