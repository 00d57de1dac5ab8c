//! The changes of an epoch: found by key in constant time, and in the order of their keys once somebody reads many ranges.

use std::cell::{Cell, OnceCell};
use std::hash::{BuildHasher, Hasher};

use hashbrown::HashTable;

use super::pages::Pages;

/// So many ranges are read by looking through all keys. An order costs more than that: a copy of every key, and one for each that
/// is added later.
const FEW: u32 = 8;
/// Bytes of values that were replaced are given back when they are this many, and half of all.
const WASTE: usize = 1 << 20;

/// A changed entry; `None` is a deletion.
pub(super) type Change<'a> = (&'a [u8], Option<&'a [u8]>);

/// Changed entries. Their bytes lie one after the other, and go all at once.
#[derive(Default)]
pub(super) struct Overlay {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// Places in `entries`, by the hash of the key.
    places: HashTable<u32>,
    /// Places in `entries` by key. Made when the first few ranges were read, and kept from then on: most steps read none or, when a
    /// window closes, one or two; a join would otherwise look through all keys for every row.
    order: OnceCell<Pages>,
    /// Ranges that were read without an order.
    ranges: Cell<u32>,
    /// Once nothing is changed any more: all places in the order of the keys.
    sorted: Vec<u32>,
    /// Bytes that belong to no entry any more.
    waste: usize,
}

struct Entry {
    hash: u64,
    /// Where the key begins in the bytes, and the value, with their lengths.
    key: (usize, u32),
    value: Value,
}

enum Value {
    Set(usize, u32),
    Deleted,
    /// The entry is no change any more.
    Unchanged,
}

impl Overlay {
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn slice(&self, (start, length): (usize, u32)) -> &[u8] {
        self.bytes.get(start..start + length as usize).unwrap_or_default()
    }

    fn entry(&self, place: u32) -> Option<Change<'_>> {
        let entry = self.entries.get(place as usize)?;
        let value = match entry.value {
            Value::Set(start, length) => Some(self.slice((start, length))),
            Value::Deleted => None,
            Value::Unchanged => return None,
        };
        Some((self.slice(entry.key), value))
    }

    fn place(&self, hash: u64, key: &[u8]) -> Option<u32> {
        let is_key = |place: &u32| self.entries.get(*place as usize).is_some_and(|e| e.hash == hash && self.slice(e.key) == key);
        self.places.find(hash, is_key).copied()
    }

    /// `hash`: that of the key.
    pub fn get(&self, hash: u64, key: &[u8]) -> Option<Option<&[u8]>> {
        self.entry(self.place(hash, key)?).map(|(_, value)| value)
    }

    pub fn set(&mut self, key: &[u8], value: Option<&[u8]>) {
        let hash = hash(key);
        let place = self.place(hash, key).unwrap_or_else(|| {
            let place = self.entries.len() as u32;
            let key = self.append(key);
            self.entries.push(Entry { hash, key, value: Value::Deleted });
            let entries = &self.entries;
            self.places.insert_unique(hash, place, |place| entries.get(*place as usize).map_or(0, |entry| entry.hash));
            if let Some(order) = self.order.get_mut() {
                let (start, length) = key;
                let key = self.bytes.get(start..start + length as usize);
                order.insert(key.unwrap_or_default(), &place.to_ne_bytes());
            }
            place
        });
        let room = match self.entries.get(place as usize).map(|entry| &entry.value) {
            Some(Value::Set(start, length)) => Some((*start, *length as usize)),
            _ => None,
        };
        let value = match (value, room) {
            (None, room) => {
                self.waste += room.map_or(0, |(_, length)| length);
                Value::Deleted
            }
            (Some(value), Some((start, length))) if value.len() <= length => {
                self.waste += length - value.len();
                if let Some(to) = self.bytes.get_mut(start..start + value.len()) {
                    to.copy_from_slice(value);
                }
                Value::Set(start, value.len() as u32)
            }
            (Some(value), room) => {
                self.waste += room.map_or(0, |(_, length)| length);
                let (start, length) = self.append(value);
                Value::Set(start, length)
            }
        };
        if let Some(entry) = self.entries.get_mut(place as usize) {
            entry.value = value;
        }
        if self.waste > WASTE && self.waste > self.bytes.len() / 2 {
            self.compact();
        }
    }

    fn append(&mut self, bytes: &[u8]) -> (usize, u32) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        (start, bytes.len() as u32)
    }

    /// Gives back the bytes that belong to no entry.
    fn compact(&mut self) {
        let mut bytes = Vec::with_capacity(self.bytes.len() - self.waste);
        let mut moved = |(start, length): (usize, u32)| {
            let to = bytes.len();
            bytes.extend_from_slice(self.bytes.get(start..start + length as usize).unwrap_or_default());
            (to, length)
        };
        for entry in &mut self.entries {
            entry.key = moved(entry.key);
            if let Value::Set(start, length) = entry.value {
                let (start, length) = moved((start, length));
                entry.value = Value::Set(start, length);
            }
        }
        (self.bytes, self.waste) = (bytes, 0);
    }

    /// Takes a key out, as if it had not been changed.
    pub fn remove(&mut self, key: &[u8]) {
        let hash = hash(key);
        let Some(place) = self.place(hash, key) else { return };
        if let Some(entry) = self.entries.get_mut(place as usize) {
            entry.value = Value::Unchanged;
        }
        if let Ok(found) = self.places.find_entry(hash, |found| *found == place) {
            found.remove();
        }
        if let Some(order) = self.order.get_mut() {
            order.remove(key);
        }
    }

    /// The changes in `from <= key < to`, in order. `from` must not be after `to`.
    pub fn range<'a>(&'a self, from: &[u8], to: &'a [u8]) -> impl Iterator<Item = Change<'a>> + use<'a> {
        let (mut few, mut ordered, mut sorted) = (Vec::new(), None, [].as_slice());
        if !self.sorted.is_empty() {
            let before = |key: &[u8]| self.sorted.partition_point(|place| self.entry(*place).is_some_and(|(found, _)| found < key));
            let start = before(from);
            sorted = self.sorted.get(start..).unwrap_or_default();
        } else if self.order.get().is_none() && self.ranges.get() < FEW {
            self.ranges.set(self.ranges.get() + 1);
            few.extend(self.changes().filter(|(key, _)| *key >= from && *key < to));
            few.sort_unstable_by_key(|(key, _)| *key);
        } else {
            ordered = Some(self.order.get_or_init(|| self.in_order()).range(from, to));
        }
        let ordered = ordered.into_iter().flatten().filter_map(|(_, place)| self.entry(number(place)?));
        let sorted = sorted.iter().filter_map(|place| self.entry(*place)).take_while(move |(key, _)| *key < to);
        few.into_iter().chain(sorted).chain(ordered)
    }

    /// Everything, in no order.
    fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        (0..self.entries.len() as u32).filter_map(|place| self.entry(place))
    }

    fn in_order(&self) -> Pages {
        let mut order = Pages::default();
        for place in 0..self.entries.len() as u32 {
            if let Some((key, _)) = self.entry(place) {
                order.insert(key, &place.to_ne_bytes());
            }
        }
        order
    }

    /// Nothing will be changed any more: puts everything in the order of the keys.
    pub fn sort(&mut self) {
        let sorted = match self.order.take() {
            Some(order) => order.entries().filter_map(|(_, place)| number(place)).collect(),
            None => {
                let mut keyed: Vec<(&[u8], u32)> =
                    (0..self.entries.len() as u32).filter_map(|place| self.entry(place).map(|(key, _)| (key, place))).collect();
                keyed.sort_unstable();
                keyed.into_iter().map(|(_, place)| place).collect()
            }
        };
        self.sorted = sorted;
    }

    /// Everything in the order of the keys, after [`Overlay::sort`].
    pub fn sorted(&self) -> impl Iterator<Item = Change<'_>> {
        self.sorted.iter().filter_map(|place| self.entry(*place))
    }
}

/// The hash by which a key is found.
pub(super) fn hash(key: &[u8]) -> u64 {
    let mut hasher = foldhash::fast::FixedState::default().build_hasher();
    hasher.write(key);
    hasher.finish()
}

fn number(place: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(place.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_were_replaced_are_given_back() {
        let mut overlay = Overlay::default();
        overlay.set(b"gone", None);
        overlay.set(b"short", Some(b"1"));
        // From here on there is an order, too.
        (0..=FEW).for_each(|_| assert_eq!(overlay.range(b"g", b"t").count(), 2));
        for n in 1..200 {
            overlay.set(b"long", Some(&vec![n as u8; 10_000 * n]));
        }
        assert!(overlay.bytes.len() < 2 * (2_000_000 + WASTE), "{}", overlay.bytes.len());
        overlay.set(b"short", None);
        overlay.set(b"none", Some(b""));
        overlay.remove(b"none");
        let long = vec![199; 1_990_000];
        let all: [Change<'_>; 3] = [(b"gone", None), (b"long", Some(&long)), (b"short", None)];
        assert!(overlay.range(b"", b"z").eq(all));
        overlay.sort();
        assert!(overlay.range(b"", b"z").eq(all) && overlay.sorted().eq(all));
        assert_eq!(overlay.get(hash(b"long"), b"long"), Some(Some(long.as_slice())));
        assert_eq!(overlay.get(hash(b"none"), b"none"), None);
    }
}
