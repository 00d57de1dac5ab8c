//! Entries in the order of their keys, in pages: the bytes of neighbours lie one after the other.
//!
//! An entry has no allocation of its own. A search goes through a tree of pages, which is much smaller than one of entries, and ends in
//! one piece of memory; a range is read from there on. What is removed from the front, page by page, leaves no holes.

use std::collections::BTreeMap;
use std::ops::Bound;

/// Bytes at which a page is divided. More of them make the tree smaller, and each change of a page dearer.
const PAGE: usize = 8_192;
/// A page with fewer bytes is joined with the next one if they fit into one.
const FEW: usize = PAGE / 4;
/// Joined pages have no more bytes than this, so that the next entry does not divide them again.
const JOINED: usize = PAGE / 4 * 3;
/// Pages grow by so many bytes: room for more would stay empty in most of them.
const STEP: usize = 512;

/// See the module documentation.
#[derive(Default)]
pub(super) struct Pages {
    /// By a lower bound of the keys in a page.
    pages: BTreeMap<Box<[u8]>, Page>,
    length: usize,
    bytes: usize,
}

#[derive(Default)]
struct Page {
    bytes: Vec<u8>,
    /// Of each entry, where its key and its value end.
    ends: Vec<(u32, u32)>,
}

impl Pages {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The page that has a key if any has, and its bound.
    fn page(&self, key: &[u8]) -> Option<(&[u8], &Page)> {
        let page = self.pages.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        page.map(|(bound, page)| (bound.as_ref(), page))
    }

    fn page_mut(&mut self, key: &[u8]) -> Option<(&[u8], &mut Page)> {
        let page = self.pages.range_mut::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        page.map(|(bound, page)| (bound.as_ref(), page))
    }

    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let (_, page) = self.page(key)?;
        let place = page.find(key).ok()?;
        page.entry(place).map(|(_, value)| value)
    }

    /// Sets the value of a key.
    pub fn insert(&mut self, key: &[u8], value: &[u8]) {
        if self.pages.first_key_value().is_none_or(|(bound, _)| key < bound.as_ref()) {
            let first = self.pages.pop_first().map(|(_, page)| page).unwrap_or_default();
            self.pages.insert(Box::default(), first);
        }
        let Some((_, page)) = self.page_mut(key) else { return };
        let replaced = match page.find(key) {
            Ok(place) if page.overwrite(place, value) => return,
            Ok(place) => {
                let old = page.remove(place);
                page.insert(place, key, value);
                Some(old)
            }
            Err(place) => {
                page.insert(place, key, value);
                None
            }
        };
        let next = page.divide();
        self.pages.extend(next);
        self.bytes = self.bytes + key.len() + value.len() - replaced.unwrap_or(0);
        self.length += usize::from(replaced.is_none());
    }

    /// Removes a key, if it is there.
    pub fn remove(&mut self, key: &[u8]) {
        let Some((bound, page)) = self.page_mut(key) else { return };
        let Ok(place) = page.find(key) else { return };
        let old = page.remove(place);
        let small = (page.bytes.len() < FEW).then(|| bound.to_vec());
        self.bytes -= old;
        self.length -= 1;
        if let Some(bound) = small {
            self.join(&bound);
        }
    }

    /// Joins a small page with the next one, if they fit into one; removes it if it is empty.
    fn join(&mut self, bound: &[u8]) {
        let behind = (Bound::Excluded(bound), Bound::Unbounded);
        let size = self.pages.get(bound).map_or(0, |page| page.bytes.len());
        if size == 0 {
            self.pages.remove(bound);
            return;
        }
        let fits = |page: &Page| size + page.bytes.len() <= JOINED;
        let next = self.pages.range::<[u8], _>(behind).next().filter(|(_, next)| fits(next)).map(|(bound, _)| bound.clone());
        let next = next.and_then(|bound| self.pages.remove(&bound));
        if let (Some(next), Some(page)) = (next, self.pages.get_mut(bound)) {
            page.append(&next, 0);
        }
    }

    /// The entries with `from <= key < to`, in order.
    pub fn range<'a>(&'a self, from: &[u8], to: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let first = self.page(from);
        let behind = (first.map_or(Bound::Unbounded, |(bound, _)| Bound::Excluded(bound)), Bound::Unbounded);
        let place = first.map_or(0, |(_, page)| page.find(from).unwrap_or_else(|place| place));
        let first = first.into_iter().flat_map(move |(_, page)| page.entries(place));
        // Most ranges end within a page.
        let more = std::iter::once_with(move || self.pages.range::<[u8], _>(behind).flat_map(|(_, page)| page.entries(0)));
        first.chain(more.flatten()).take_while(move |(key, _)| *key < to)
    }

    /// All entries in order.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.pages.values().flat_map(|page| page.entries(0))
    }
}

impl Page {
    /// Where the entry in this place begins.
    fn start(&self, place: usize) -> usize {
        place.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |(_, end)| *end as usize)
    }

    fn entry(&self, place: usize) -> Option<(&[u8], &[u8])> {
        let (key, value) = *self.ends.get(place)?;
        let (start, middle, end) = (self.start(place), key as usize, value as usize);
        Some((self.bytes.get(start..middle)?, self.bytes.get(middle..end)?))
    }

    fn entries(&self, from: usize) -> impl Iterator<Item = (&[u8], &[u8])> {
        (from..self.ends.len()).filter_map(|place| self.entry(place))
    }

    /// The place of a key, or where it belongs.
    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.entry(middle).map(|(found, _)| found.cmp(key)) {
                Some(std::cmp::Ordering::Less) => low = middle + 1,
                Some(std::cmp::Ordering::Equal) => return Ok(middle),
                _ => high = middle,
            }
        }
        Err(low)
    }

    fn insert(&mut self, place: usize, key: &[u8], value: &[u8]) {
        let (start, length, before) = (self.start(place), key.len() + value.len(), self.bytes.len());
        self.room(length);
        self.bytes.resize(before + length, 0);
        self.bytes.copy_within(start..before, start + length);
        for (from, part) in [(start, key), (start + key.len(), value)] {
            if let Some(to) = self.bytes.get_mut(from..from + part.len()) {
                to.copy_from_slice(part);
            }
        }
        self.ends.insert(place, ((start + key.len()) as u32, (start + length) as u32));
        self.ends.iter_mut().skip(place + 1).for_each(|(key, value)| (*key, *value) = (*key + length as u32, *value + length as u32));
    }

    /// Sets the value in this place, if it has as many bytes as the old one.
    fn overwrite(&mut self, place: usize, value: &[u8]) -> bool {
        let Some((start, end)) = self.ends.get(place).map(|(start, end)| (*start as usize, *end as usize)) else { return false };
        let old = self.bytes.get_mut(start..end).filter(|old| old.len() == value.len());
        old.map(|old| old.copy_from_slice(value)).is_some()
    }

    /// Removes the entry in this place; returns its bytes.
    fn remove(&mut self, place: usize) -> usize {
        let start = self.start(place);
        let Some((_, end)) = self.ends.get(place).copied() else { return 0 };
        let length = end as usize - start;
        self.bytes.drain(start..end as usize);
        self.ends.remove(place);
        self.ends.iter_mut().skip(place).for_each(|(key, value)| (*key, *value) = (*key - length as u32, *value - length as u32));
        self.tighten();
        length
    }

    /// Makes room for so many bytes more.
    fn room(&mut self, length: usize) {
        let needed = self.bytes.len() + length;
        if needed > self.bytes.capacity() {
            self.bytes.reserve_exact(needed.next_multiple_of(STEP) - self.bytes.len());
        }
    }

    /// Gives back room that is not needed any more.
    fn tighten(&mut self) {
        let needed = self.bytes.len().next_multiple_of(STEP);
        if needed + 2 * STEP < self.bytes.capacity() {
            self.bytes.shrink_to(needed);
        }
    }

    /// Appends the entries of `other` from a place on.
    fn append(&mut self, other: &Page, from: usize) {
        let (start, before) = (other.start(from), self.bytes.len());
        let Some(bytes) = other.bytes.get(start..) else { return };
        self.room(bytes.len());
        self.bytes.extend_from_slice(bytes);
        let moved = |end: u32| (end as usize - start + before) as u32;
        self.ends.extend(other.ends.iter().skip(from).map(|(key, value)| (moved(*key), moved(*value))));
    }

    /// Divides a page that is too large: what is to follow it, with its bound.
    fn divide(&mut self) -> Option<(Box<[u8]>, Page)> {
        let last = self.ends.len().checked_sub(1).filter(|last| *last > 0 && self.bytes.len() > PAGE)?;
        let half = self.ends.partition_point(|(_, end)| (*end as usize) < self.bytes.len() / 2);
        let place = half.clamp(1, last);
        let (left, right) = (self.entry(place - 1)?.0, self.entry(place)?.0);
        // The shortest bound between the two.
        let same = left.iter().zip(right).take_while(|(a, b)| a == b).count();
        let bound = right.get(..=same)?.into();
        let mut next = Page::default();
        next.append(self, place);
        self.bytes.truncate(self.start(place));
        self.ends.truncate(place);
        self.tighten();
        Some((bound, next))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys of a few kinds: neighbours, and some that are the beginning of others.
    fn key(n: u16) -> Vec<u8> {
        let mut key = vec![1; usize::from(n % 3)];
        key.extend_from_slice(&n.to_be_bytes());
        key
    }

    fn check(pages: &Pages, model: &BTreeMap<Vec<u8>, Vec<u8>>) {
        assert!(pages.entries().eq(model.iter().map(|(k, v)| (k.as_slice(), v.as_slice()))));
        assert_eq!((pages.len(), pages.bytes()), (model.len(), model.iter().map(|(k, v)| k.len() + v.len()).sum()));
    }

    proptest! {
        #[test]
        fn they_are_an_ordered_map(ops in proptest::collection::vec((0u16..2_000, 0usize..700, 0u8..3), 1..400)) {
            let (mut pages, mut model) = (Pages::default(), BTreeMap::new());
            for (n, length, op) in ops {
                let (key, value) = (key(n), vec![n as u8; length]);
                match op {
                    0 => {
                        pages.remove(&key);
                        model.remove(&key);
                    }
                    _ => {
                        pages.insert(&key, &value);
                        model.insert(key.clone(), value);
                    }
                }
                prop_assert_eq!(pages.get(&key), model.get(&key).map(Vec::as_slice));
                let (from, to) = (super::tests::key(n / 2), super::tests::key(n.saturating_add(length as u16)));
                let in_range = model.iter().filter(|(key, _)| **key >= from && **key < to).map(|(k, v)| (k.as_slice(), v.as_slice()));
                prop_assert!(pages.range(&from, &to).eq(in_range));
            }
            check(&pages, &model);
        }
    }

    /// Entries in any order, then all but one in twenty removed, then those from the front.
    #[test]
    fn what_is_removed_leaves_little_behind() {
        let number = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        let held = |pages: &Pages| pages.pages.values().map(|page| page.bytes.capacity()).sum::<usize>();
        let mut pages = Pages::default();
        (0..20_000).for_each(|n| pages.insert(&number(n), &[7; 100]));
        assert!(held(&pages) < pages.bytes() * 5 / 4, "{} of {} bytes", held(&pages), pages.bytes());
        (0..20_000).filter(|n| n % 20 > 0).for_each(|n| pages.remove(&number(n)));
        assert_eq!(pages.len(), 1_000);
        assert!(held(&pages) < pages.bytes() * 2, "{} of {} bytes", held(&pages), pages.bytes());
        let keys: Vec<Vec<u8>> = pages.entries().map(|(key, _)| key.to_vec()).collect();
        keys.iter().for_each(|key| pages.remove(key));
        assert!(pages.pages.is_empty() && pages.bytes() == 0 && pages.len() == 0);
        pages.insert(b"a", &[1; 10_000]);
        pages.insert(b"b", b"");
        pages.insert(b"", &[2; 5_000]);
        assert_eq!(
            pages.entries().map(|(key, value)| (key, value.len())).collect::<Vec<_>>(),
            [(&b""[..], 5_000), (b"a", 10_000), (b"b", 0)]
        );
    }
}
