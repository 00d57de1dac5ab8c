//! Sums of doubles that do not depend on the order of the numbers.
//!
//! Adding doubles one by one rounds at every step, so another batch size or another interleaving of partitions would
//! give another sum. Here the rounding error of each addition is kept (Knuth's TwoSum is error-free) and added on as
//! further parts: a double-double for ordinary data, and as many parts as exactness needs where magnitudes differ more
//! than 106 bits allow. The parts always add up to the exact sum of the input (J. R. Shewchuk, "Adaptive Precision
//! Floating-Point Arithmetic and Fast Robust Geometric Predicates", 1997, theorem 10), and [`ExactSum::value`] rounds
//! that once, to the nearest double with ties to even. Parts do not overlap, so there are never more than about 40.
//!
//! Numbers near the limit of doubles are summed apart, scaled down by a power of two: so no step of an addition can
//! overflow, and a sum that temporarily leaves the range of doubles is exact like any other.

use operator_core::stores::bytes::{Reader, put_f64, put_u64};

/// 2^900: from here on numbers are summed apart. 2^64 smaller ones stay below the largest double.
const HUGE: f64 = f64::from_bits((1023 + 900) << 52);
/// 2^128: what those are divided by.
const SCALE: f64 = f64::from_bits((1023 + 128) << 52);
/// 2^800: a scaled sum above it decides the result's leading digits.
const NEAR: f64 = f64::from_bits((1023 + 800) << 52);

/// More parts than non-overlapping doubles can have: a sign of corrupt state.
const MAX_PARTS: u64 = 64;
/// In place of the number of parts: two sums follow.
const TWO_SUMS: u64 = MAX_PARTS + 1;

/// The exact sum of the finite doubles added so far.
#[derive(Clone, Debug, Default)]
pub struct ExactSum {
    ordinary: Parts,
    /// Of the numbers from [`HUGE`] on, divided by [`SCALE`].
    huge: Option<Box<Parts>>,
}

/// A sum as doubles that do not overlap.
#[derive(Clone, Debug, Default)]
struct Parts {
    /// The largest part: the sum rounded, up to one unit in the last place.
    head: f64,
    /// The second largest part.
    tail: f64,
    /// Further parts, smallest first. Empty unless magnitudes differ by more than a double-double holds.
    rest: Vec<f64>,
}

/// `a + b` rounded, and what the rounding lost: the two add up to `a + b` exactly.
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let of_b = sum - a;
    let of_a = sum - of_b;
    (sum, (a - of_a) + (b - of_b))
}

impl ExactSum {
    /// Adds `x`, which must be finite.
    #[inline]
    pub fn add(&mut self, x: f64) {
        if x.abs() < HUGE {
            self.ordinary.add(x);
        } else {
            self.huge.get_or_insert_default().add(x / SCALE);
        }
    }

    /// Adds the numbers of `other`.
    pub fn merge(&mut self, other: &ExactSum) {
        other.ordinary.parts_down().for_each(|part| self.add(part));
        if let Some(huge) = &other.huge {
            let into = self.huge.get_or_insert_default();
            huge.parts_down().for_each(|part| into.add(part));
        }
    }

    /// The exact sum, rounded to the nearest double; `None` if that is beyond the largest.
    pub fn value(&self) -> Option<f64> {
        let (value, scale) = self.rounded();
        Some(value * scale).filter(|sum| sum.is_finite())
    }

    /// The sum divided by the number of its numbers: of any finite numbers it is finite.
    pub fn mean(&self, count: i64) -> f64 {
        let (value, scale) = self.rounded();
        (value / count as f64 * scale).clamp(f64::MIN, f64::MAX)
    }

    /// The exact sum rounded to 53 bits, as a double and the power of two to multiply it by.
    fn rounded(&self) -> (f64, f64) {
        let Some(huge) = &self.huge else { return (self.ordinary.value(), 1.0) };
        if (huge.head + self.ordinary.head / SCALE).abs() < NEAR {
            // They cancel out, or nearly: what is left adds up with the ordinary ones.
            let mut sum = self.ordinary.clone();
            huge.parts_down().for_each(|part| sum.add(part * SCALE));
            return (sum.value(), 1.0);
        }
        let mut sum = huge.as_ref().clone();
        for part in self.ordinary.parts_down() {
            let scaled = part / SCALE;
            if scaled * SCALE != part {
                // Too small to be scaled exactly. All that counts is on which side of a tie the rest is.
                sum.add(f64::MIN_POSITIVE.copysign(part));
                break;
            }
            sum.add(scaled);
        }
        (sum.value(), SCALE)
    }

    /// Appends the sum to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if let Some(huge) = self.huge.as_deref().filter(|huge| huge.parts_down().any(|part| part != 0.0)) {
            put_u64(TWO_SUMS, out);
            huge.encode(out);
        }
        self.ordinary.encode(out);
    }

    /// Reads what [`ExactSum::encode`] wrote.
    pub fn decode(reader: &mut Reader<'_>) -> Option<ExactSum> {
        match reader.u64()? {
            TWO_SUMS => {
                let count = reader.u64()?;
                let huge = Some(Box::new(Parts::decode(count, reader)?));
                let count = reader.u64()?;
                Some(ExactSum { ordinary: Parts::decode(count, reader)?, huge })
            }
            count => Some(ExactSum { ordinary: Parts::decode(count, reader)?, huge: None }),
        }
    }
}

impl Parts {
    fn add(&mut self, x: f64) {
        let mut x = x;
        if !self.rest.is_empty() {
            self.rest.retain_mut(|part| {
                let (sum, error) = two_sum(x, *part);
                x = sum;
                *part = error;
                error != 0.0
            });
        }
        let (sum, low) = two_sum(x, self.tail);
        let (head, high) = two_sum(sum, self.head);
        self.head = head;
        if high == 0.0 {
            self.tail = low;
        } else {
            self.tail = high;
            if low != 0.0 {
                self.rest.push(low);
            }
        }
    }

    /// The exact sum, rounded to the nearest double.
    fn value(&self) -> f64 {
        let mut parts = self.parts_down();
        let mut high = parts.next().unwrap_or(0.0);
        let mut low = 0.0;
        for part in parts.by_ref() {
            (high, low) = two_sum(high, part);
            if low != 0.0 {
                break;
            }
        }
        // `low` may be exactly half a unit of `high`: then the sign of what is left decides, not ties-to-even.
        let left = parts.find(|part| *part != 0.0).unwrap_or(0.0);
        if (low > 0.0 && left > 0.0) || (low < 0.0 && left < 0.0) {
            let doubled = low * 2.0;
            let up = high + doubled;
            if up - high == doubled {
                high = up;
            }
        }
        high + 0.0 // no negative zero
    }

    /// The parts from the largest to the smallest.
    fn parts_down(&self) -> impl Iterator<Item = f64> {
        [self.head, self.tail].into_iter().chain(self.rest.iter().rev().copied())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_u64(self.parts_down().filter(|p| *p != 0.0).count() as u64, out);
        self.parts_down().filter(|p| *p != 0.0).for_each(|p| put_f64(p, out));
    }

    fn decode(count: u64, reader: &mut Reader<'_>) -> Option<Parts> {
        if count > MAX_PARTS {
            return None;
        }
        let mut sum = Parts::default();
        for place in 0..count {
            let part = reader.f64().filter(|p| p.is_finite())?;
            match place {
                0 => sum.head = part,
                1 => sum.tail = part,
                _ => sum.rest.push(part),
            }
        }
        sum.rest.reverse();
        Some(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(numbers: &[f64]) -> ExactSum {
        let mut sum = ExactSum::default();
        for x in numbers {
            sum.add(*x);
            let mut bytes = Vec::new();
            sum.encode(&mut bytes);
            sum = ExactSum::decode(&mut Reader::new(&bytes)).unwrap();
        }
        sum
    }

    fn sum(numbers: &[f64]) -> f64 {
        total(numbers).value().unwrap()
    }

    #[test]
    fn nothing_is_lost_between_magnitudes() {
        assert_eq!(sum(&[]), 0.0);
        assert_eq!(sum(&[0.1; 10]), 1.0);
        assert_eq!(sum(&[1e300, 1.0, 1e-300, -1e300, -1.0]), 1e-300);
        assert_eq!(sum(&[1e-300, 1e16, 1.0, 1.0, -1e16, 1e-300]), 2.0);
        assert_eq!(sum(&[-0.0, -0.0]).to_bits(), 0.0f64.to_bits());
    }

    #[test]
    fn rounds_once() {
        // 2^53 + 1 is a tie; the least bit beyond it decides.
        let big = 9_007_199_254_740_992.0;
        assert_eq!(sum(&[big, 1.0]), big);
        assert_eq!(sum(&[big, 1.0, 1e-30]), big + 2.0);
        assert_eq!(sum(&[big, 1.0, -1e-30]), big);
        assert_eq!(sum(&[-big, -1.0, -1e-30]), -big - 2.0);
    }

    #[test]
    fn only_the_whole_sum_has_to_be_in_range() {
        let (most, tiny) = (f64::MAX, f64::from_bits(1));
        assert_eq!(sum(&[most, most, -most, 1e290]), most);
        assert_eq!(sum(&[most, 1.5, most, -most, -most, tiny]), 1.5);
        assert_eq!(sum(&[most, -most, tiny]), tiny);
        assert_eq!(sum(&[HUGE, tiny, -HUGE]), tiny);
        assert_eq!(total(&[most, most]).value(), None);
        assert_eq!(total(&[-most, -most]).value(), None);
        assert_eq!(total(&[most; 1000]).mean(1000), most);
        // Half a unit beyond the largest double is a tie with what is out of range; the least bit decides.
        let half = f64::from_bits((1023 + 970) << 52);
        assert_eq!(total(&[most, half]).value(), None);
        assert_eq!(sum(&[most, half, -tiny]), most);
        assert_eq!(sum(&[most, half, -1e-250, tiny]), most);
        assert_eq!(total(&[most, half, tiny]).value(), None);
        // What was written before there were two sums: one up to half the largest double.
        let before = ExactSum { ordinary: Parts { head: most / 2.0, ..Parts::default() }, huge: None };
        let mut after = before.clone();
        [most, -most, HUGE, -HUGE].iter().for_each(|x| after.add(*x));
        assert_eq!(after.value(), before.value());
        after.add(-most / 2.0);
        assert_eq!(after.value(), Some(0.0));
    }
}
