//! Sums of doubles that do not depend on the order of the numbers.
//!
//! Adding doubles one by one rounds at every step, so another batch size or another interleaving of partitions would
//! give another sum. Here the rounding error of each addition is kept (Knuth's TwoSum is error-free) and added on as
//! further parts: a double-double for ordinary data, and as many parts as exactness needs where magnitudes differ more
//! than 106 bits allow. The parts always add up to the exact sum of the input (J. R. Shewchuk, "Adaptive Precision
//! Floating-Point Arithmetic and Fast Robust Geometric Predicates", 1997, theorem 10), and [`ExactSum::value`] rounds
//! that once, to the nearest double with ties to even. Parts do not overlap, so there are never more than about 40.

use crate::codec::{Reader, put_f64, put_u64};

/// Sums beyond this (2^1023, half the largest double) are refused, so that no step of an addition can overflow.
pub const LIMIT: f64 = f64::from_bits(0x7fe0_0000_0000_0000);

/// More parts than non-overlapping doubles can have: a sign of corrupt state.
const MAX_PARTS: u64 = 64;

/// The exact sum of the finite doubles added so far.
#[derive(Clone, Debug, Default)]
pub struct ExactSum {
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
    /// True if `x` is finite and the sum with it stays within [`LIMIT`].
    pub fn accepts(&self, x: f64) -> bool {
        // false for a NaN, too
        (self.head + x).abs() <= LIMIT
    }

    /// Adds `x`, for which [`ExactSum::accepts`] must hold.
    pub fn add(&mut self, x: f64) {
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
    pub fn value(&self) -> f64 {
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

    /// Appends the sum to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_u64(self.parts_down().filter(|p| *p != 0.0).count() as u64, out);
        self.parts_down().filter(|p| *p != 0.0).for_each(|p| put_f64(p, out));
    }

    /// Reads what [`ExactSum::encode`] wrote.
    pub fn decode(reader: &mut Reader<'_>) -> Option<ExactSum> {
        let count = reader.u64().filter(|n| *n <= MAX_PARTS)?;
        let mut sum = ExactSum::default();
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

    fn sum(numbers: &[f64]) -> f64 {
        let mut sum = ExactSum::default();
        for x in numbers {
            assert!(sum.accepts(*x));
            sum.add(*x);
            let mut bytes = Vec::new();
            sum.encode(&mut bytes);
            sum = ExactSum::decode(&mut Reader::new(&bytes)).unwrap();
        }
        sum.value()
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
    fn refuses_what_cannot_be_summed() {
        let mut sum = ExactSum::default();
        for x in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(!sum.accepts(x));
        }
        sum.add(LIMIT);
        assert!(!sum.accepts(f64::MAX));
        assert!(sum.accepts(-1.0));
    }
}
