//! Percentiles from a sketch: DDSketch (C. Masson, J. E. Rim, H. K. Lee, "DDSketch: A fast and fully-mergeable quantile
//! sketch with relative-error guarantees", VLDB 2019).
//!
//! Values are counted in buckets whose bounds grow by a constant factor, so an answer is within 1 % of a value that
//! really has the asked rank. Only buckets with values are kept. Counting is independent of the order of the values,
//! and so is the collapse when there are more than [`MAX_BUCKETS`]: the smallest magnitudes share the lowest bucket kept.
//! Then percentiles that fall into that bucket lose the guarantee; this takes magnitudes that span 17 decades or more.
//!
//! The logarithm is computed from additions and multiplications only, so that a value lands in the same bucket on
//! every platform and every libm.

use operator_core::stores::bytes::{Reader, put_f64, put_i128, put_u64};

/// Relative error of an answer.
pub const ACCURACY: f64 = 0.01;
/// Buckets kept for values above zero, and as many for values below.
pub const MAX_BUCKETS: usize = 2048;

const GAMMA: f64 = (1.0 + ACCURACY) / (1.0 - ACCURACY);
/// 1 / ln(GAMMA)
const PER_LN: f64 = 49.998_333_288_886_56;

/// Counts of values by bucket, in the order of the bucket numbers.
#[derive(Clone, Debug, Default, PartialEq)]
struct Buckets(Vec<(i32, u64)>);

/// The distribution of the values added so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Sketch {
    min: f64,
    max: f64,
    zeros: u64,
    positive: Buckets,
    negative: Buckets,
}

impl Default for Sketch {
    fn default() -> Sketch {
        Sketch { min: f64::INFINITY, max: f64::NEG_INFINITY, zeros: 0, positive: Buckets::default(), negative: Buckets::default() }
    }
}

impl Sketch {
    /// Counts `x`, which must be finite.
    pub fn add(&mut self, x: f64) {
        let x = x + 0.0; // of 0.0 and -0.0 the first to come must not be kept
        self.min = self.min.min(x);
        self.max = self.max.max(x);
        if x > 0.0 {
            self.positive.add(bucket(x), 1);
        } else if x < 0.0 {
            self.negative.add(bucket(-x), 1);
        } else {
            self.zeros += 1;
        }
    }

    /// Counts the values of `other`, too.
    pub fn merge(&mut self, other: &Sketch) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.zeros = self.zeros.saturating_add(other.zeros);
        self.positive.merge(&other.positive);
        self.negative.merge(&other.negative);
    }

    /// Number of values counted.
    pub fn count(&self) -> u64 {
        self.zeros.saturating_add(self.positive.count()).saturating_add(self.negative.count())
    }

    /// The value at rank `p` (0 the smallest, 1 the largest), within [`ACCURACY`]; `None` if no value was counted.
    pub fn quantile(&self, p: f64) -> Option<f64> {
        let count = self.count();
        let last = count.checked_sub(1)?;
        let mut rank = ((p * last as f64) as u64).min(last);
        if rank == last {
            return Some(self.max);
        }
        // From the smallest value up: negative values with large magnitudes first.
        let down = self.negative.0.iter().rev().map(|(bucket, n)| (-middle(*bucket), *n));
        let up = self.positive.0.iter().map(|(bucket, n)| (middle(*bucket), *n));
        for (value, n) in down.chain([(0.0, self.zeros)]).chain(up) {
            if rank < n {
                return Some(value.clamp(self.min, self.max));
            }
            rank -= n;
        }
        Some(self.max)
    }

    /// Appends the sketch to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_f64(self.min, out);
        put_f64(self.max, out);
        put_u64(self.zeros, out);
        self.positive.encode(out);
        self.negative.encode(out);
    }

    /// Reads what [`Sketch::encode`] wrote.
    pub fn decode(reader: &mut Reader<'_>) -> Option<Sketch> {
        let (min, max) = (reader.f64()?, reader.f64()?);
        let zeros = reader.u64()?;
        let (positive, negative) = (Buckets::decode(reader)?, Buckets::decode(reader)?);
        // `clamp` needs an ordered range
        let empty = zeros == 0 && positive.0.is_empty() && negative.0.is_empty();
        (empty || min <= max).then_some(Sketch { min, max, zeros, positive, negative })
    }
}

impl Buckets {
    /// Bucket by bucket: what was collapsed here or there is collapsed in the end.
    fn merge(&mut self, other: &Buckets) {
        other.0.iter().for_each(|(bucket, count)| self.add(*bucket, *count));
    }

    fn add(&mut self, bucket: i32, times: u64) {
        match self.0.binary_search_by_key(&bucket, |(number, _)| *number) {
            Ok(place) => {
                if let Some((_, count)) = self.0.get_mut(place) {
                    *count = count.saturating_add(times);
                }
            }
            Err(place) => {
                self.0.insert(place, (bucket, times));
                if self.0.len() > MAX_BUCKETS {
                    let (_, lowest) = self.0.remove(0);
                    if let Some((_, count)) = self.0.first_mut() {
                        *count = count.saturating_add(lowest);
                    }
                }
            }
        }
    }

    fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum: u64, (_, n)| sum.saturating_add(*n))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_u64(self.0.len() as u64, out);
        let mut before = 0;
        for (bucket, count) in &self.0 {
            put_i128(i128::from(*bucket) - before, out);
            put_u64(*count, out);
            before = i128::from(*bucket);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Buckets> {
        let length = usize::try_from(reader.u64()?).ok().filter(|n| *n <= MAX_BUCKETS)?;
        let mut buckets = Vec::with_capacity(length);
        let mut number = 0i128;
        for _ in 0..length {
            number = number.checked_add(reader.i128()?)?;
            buckets.push((i32::try_from(number).ok()?, reader.u64()?));
        }
        Some(Buckets(buckets))
    }
}

/// The bucket of `x > 0`: numbers in `(GAMMA^(n-1), GAMMA^n]` are in bucket `n`.
fn bucket(x: f64) -> i32 {
    (ln(x) * PER_LN).ceil() as i32
}

/// The value whose relative distance to both bounds of the bucket is the same.
fn middle(bucket: i32) -> f64 {
    // By squaring: 16 multiplications at most, and the same result everywhere.
    let base = if bucket < 0 { 1.0 / GAMMA } else { GAMMA };
    let (mut upper, mut square, mut left) = (1.0, base, bucket.unsigned_abs());
    while left > 0 {
        if left & 1 == 1 {
            upper *= square;
        }
        square *= square;
        left >>= 1;
    }
    upper * (2.0 / (1.0 + GAMMA))
}

/// Natural logarithm of `x > 0`: the exponent, and a series for the mantissa in `[sqrt(1/2), sqrt(2))`.
fn ln(x: f64) -> f64 {
    let (x, shift) = if x < f64::MIN_POSITIVE { (x * (1u64 << 54) as f64, 54.0) } else { (x, 0.0) };
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) as i64 - 1023) as f64 - shift;
    let mut mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1.0;
    }
    // ln(m) = 2 * (s + s^3/3 + s^5/5 + ...) with s = (m - 1) / (m + 1), |s| < 0.172
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let series = (0..12).rev().fold(0.0, |sum, n| sum * square + 1.0 / f64::from(2 * n + 1));
    exponent * std::f64::consts::LN_2 + 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constants_and_the_logarithm_are_right() {
        assert!((PER_LN - 1.0 / GAMMA.ln()).abs() < 1e-9);
        for x in [5e-324, 1e-300, 0.5, 0.707, 1.0, 1.414, 1.5, 2.0, 12_345.678, 1e300, f64::MAX] {
            assert!((ln(x) - x.ln()).abs() <= 1e-12 * x.ln().abs().max(1.0), "{x}");
        }
    }

    #[test]
    fn answers_are_within_one_percent_whatever_the_order() {
        let mut values: Vec<f64> = (1..=10_000).map(|n| f64::from(n) * 0.37 - 800.0).collect();
        let mut forward = Sketch::default();
        values.iter().for_each(|x| forward.add(*x));
        let mut backward = Sketch::default();
        values.iter().rev().for_each(|x| backward.add(*x));
        assert_eq!(forward, backward);
        values.sort_by(f64::total_cmp);
        for p in [0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let exact = values[(p * 9_999.0) as usize];
            let answer = forward.quantile(p).unwrap();
            assert!((answer - exact).abs() <= ACCURACY * exact.abs() * 1.000_001, "p={p}: {answer} for {exact}");
        }
        let mut bytes = Vec::new();
        forward.encode(&mut bytes);
        assert_eq!(Sketch::decode(&mut Reader::new(&bytes)), Some(forward));
    }

    #[test]
    fn extremes_and_collapse() {
        let mut sketch = Sketch::default();
        assert_eq!(sketch.quantile(0.5), None);
        let mut values: Vec<f64> = (-300..300).map(|e| 10f64.powi(e)).collect();
        (0..3_000).for_each(|n| values.push(1.03f64.powi(n)));
        values.iter().for_each(|x| sketch.add(*x));
        let mut other = Sketch::default();
        values.iter().rev().for_each(|x| other.add(*x));
        assert_eq!(sketch, other, "the collapse does not depend on the order");
        assert_eq!(sketch.positive.0.len(), MAX_BUCKETS);
        assert_eq!(sketch.count(), values.len() as u64);
        assert_eq!(sketch.quantile(1.0), values.get(599).copied());
        let mut parts = [Sketch::default(), Sketch::default(), Sketch::default()];
        values.iter().enumerate().for_each(|(n, x)| parts[n / 1_300].add(*x));
        let [first, second, mut merged] = parts;
        merged.merge(&first);
        merged.merge(&second);
        assert_eq!(sketch, merged, "nor on which part a value was in");
        sketch.add(f64::MAX);
        sketch.add(-f64::MAX);
        sketch.add(5e-324);
        assert_eq!(sketch.quantile(1.0), Some(f64::MAX));
        assert_eq!(sketch.quantile(0.0), Some(-f64::MAX));
    }
}
