//! The input: synthetic orders, the same for every run, and what each workload must make of them.
//!
//! Record `n` is a function of `n` alone, so that the expected results are computed by going through the orders again
//! instead of trusting a program under test. Event time advances by a fixed step per order and is set back by a random
//! jitter; the key is the product, and the partition is the one Kafka's own clients choose for that key (murmur2).

use std::collections::HashMap;
use std::io::Write;

/// Length of every record value in bytes. The note at its end is cut to fit.
pub const VALUE_BYTES: usize = 418;
/// Distinct keys.
pub const PRODUCTS: u64 = 10_000;
/// Partitions of inputs and outputs.
pub const PARTITIONS: i32 = 8;
/// Length of W2's windows, how long they take late rows, and how far the watermark trails: milliseconds, as in
/// `pipelines/w2.yaml`.
pub const WINDOW: i64 = 10_000;
const LATENESS: i64 = 2_000;
const OUT_OF_ORDER: i64 = 500;
/// Event times are set back by less than this many milliseconds.
const JITTER: u64 = 500;
/// W1 keeps orders above this amount.
const THRESHOLD_CENTS: u64 = 10_000;

const STATUS: [&str; 4] = ["NEW", "PAID", "PACKED", "SENT"];
const REGION: [&str; 6] = ["north", "south", "east", "west", "coast", "islands"];
const PAYMENT: [&str; 4] = ["card", "transfer", "invoice", "wallet"];
const CITY: [&str; 5] = ["Lyon", "Graz", "Porto", "Tampere", "Ghent"];
const NOTE: &str = "ring twice and leave it with the neighbour on the ground floor if nobody answers, or bring it to the pick-up \
    point at the station before six in the evening; thank you for being careful with the glass inside of this one";

/// A generator whose state is a counter: any place of its sequence can be reached at once (SplitMix64, Steele et al.
/// 2014).
pub fn random(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Nanoseconds since 1970.
pub fn now_ns() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

/// What of an order the workloads look at.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    pub number: u64,
    pub product: u64,
    pub cents: u64,
    pub quantity: u64,
    /// Milliseconds since 1970.
    pub event_time: i64,
    dice: [u64; 2],
}

impl Order {
    /// Passes W1's filter.
    pub fn is_large(&self) -> bool {
        self.cents > THRESHOLD_CENTS
    }

    pub fn total_cents(&self) -> u64 {
        self.cents * self.quantity
    }

    /// Appends the record key.
    pub fn key(&self, out: &mut Vec<u8>) {
        let _ = write!(out, "p-{:05}", self.product);
    }

    /// Appends the record value. `created`: nanoseconds since 1970.
    pub fn value(&self, created: u64, out: &mut Vec<u8>) {
        let [a, b] = self.dice;
        let pick = |list: &[&'static str], dice: u64| list[dice as usize % list.len()];
        let start = out.len();
        // Writing to a vector does not fail.
        let _ = write!(
            out,
            "{{\"order_id\":\"o-{:012}\",\"product_id\":\"p-{:05}\",\"customer_id\":\"c-{:07}\",\"amount\":{}.{:02},\"quantity\":{},\
             \"currency\":\"EUR\",\"status\":\"{}\",\"region\":\"{}\",\"payment\":\"{}\",\"event_time\":{},\"created_ns\":{created:019},",
            self.number,
            self.product,
            (a >> 8) % 1_000_000,
            self.cents / 100,
            self.cents % 100,
            self.quantity,
            pick(&STATUS, b >> 4),
            pick(&REGION, b >> 8),
            pick(&PAYMENT, b >> 12),
            self.event_time,
        );
        let _ = write!(
            out,
            "\"address\":{{\"street\":\"{} Mill Lane\",\"city\":\"{}\",\"zip\":\"{:05}\"}},\"coupon\":null,\"express\":{},\"note\":\"code {:016x}: ",
            1 + (b >> 16) % 200,
            pick(&CITY, b >> 24),
            (b >> 28) % 100_000,
            b % 2 == 0,
            a ^ b,
        );
        let note = VALUE_BYTES.saturating_sub(out.len() - start + 2).min(NOTE.len());
        out.extend_from_slice(&NOTE.as_bytes()[..note]);
        out.extend_from_slice(b"\"}");
    }
}

/// The orders of a run.
#[derive(Clone, Copy, Debug)]
pub struct Orders {
    pub count: u64,
    /// Event time of the first order before jitter: a whole multiple of [`WINDOW`].
    base: i64,
    /// Orders per second of event time.
    rate: u64,
}

impl Orders {
    /// `now`: milliseconds since 1970. Event time ends before it: no pipeline has a reason to distrust it.
    pub fn new(count: u64, rate: u64, now: i64) -> Orders {
        let span = (count * 1_000 / rate.max(1)) as i64;
        Orders { count, base: (now - span).div_euclid(WINDOW) * WINDOW, rate: rate.max(1) }
    }

    /// Event time of the first order, about, in milliseconds since 1970.
    pub fn begin(&self) -> i64 {
        self.base
    }

    pub fn order(&self, number: u64) -> Order {
        let dice = [random(2 * number + 1), random(2 * number + 2)];
        let [a, b] = dice;
        let event_time = self.base + (number * 1_000 / self.rate) as i64 - ((b >> 40) % JITTER) as i64;
        Order { number, product: a % PRODUCTS, cents: (a >> 40) % 20_000, quantity: 1 + b % 9, event_time, dice }
    }

    pub fn iter(&self) -> impl Iterator<Item = Order> + '_ {
        (0..self.count).map(|n| self.order(n))
    }
}

/// The partition of each product.
pub fn partitions() -> Vec<i32> {
    let mut key = Vec::new();
    let of = |product| {
        key.clear();
        Order { number: 0, product, cents: 0, quantity: 0, event_time: 0, dice: [0; 2] }.key(&mut key);
        partition(&key)
    };
    (0..PRODUCTS).map(of).collect()
}

/// The partition that Kafka's default partitioner chooses for a key.
pub fn partition(key: &[u8]) -> i32 {
    ((murmur2(key) & 0x7fff_ffff) % PARTITIONS as u32) as i32
}

/// The hash of Kafka's default partitioner: MurmurHash2 with its seed.
fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c ^ bytes.len() as u32;
    let words = bytes.chunks_exact(4);
    let rest = words.remainder();
    for word in words {
        let k = word.iter().rev().fold(0u32, |k, b| k << 8 | u32::from(*b)).wrapping_mul(M);
        h = h.wrapping_mul(M) ^ (k ^ (k >> 24)).wrapping_mul(M);
    }
    if !rest.is_empty() {
        h = (h ^ rest.iter().rev().fold(0u32, |k, b| k << 8 | u32::from(*b))).wrapping_mul(M);
    }
    h = (h ^ (h >> 13)).wrapping_mul(M);
    h ^ (h >> 15)
}

/// Rows and sum of amounts of one product in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    pub orders: u64,
    pub cents: u64,
}

/// What a workload's output must contain.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// W1: output records, and the sums of their order numbers and totals. Together they tell lost and doubled records
    /// apart from the right ones.
    pub large: u64,
    pub numbers: u64,
    pub total_cents: u64,
    /// W2: results by product and end of window.
    pub windows: HashMap<(u64, i64), Cell>,
    /// Rows in those windows.
    pub windowed: u64,
}

impl Expected {
    /// # Errors
    /// The number of orders makes the result depend on how partitions are read.
    pub fn of(orders: &Orders) -> Result<Expected, String> {
        let mut expected = Expected::default();
        let partitions = partitions();
        let mut newest = [i64::MIN; PARTITIONS as usize];
        let mut cells: HashMap<(u64, i64), Cell> = HashMap::new();
        for order in orders.iter() {
            if order.is_large() {
                expected.large += 1;
                expected.numbers += order.number;
                expected.total_cents += order.total_cents();
            }
            let newest = &mut newest[partitions[order.product as usize] as usize];
            let end = order.event_time.div_euclid(WINDOW) * WINDOW + WINDOW;
            if end + LATENESS > newest.saturating_sub(OUT_OF_ORDER) {
                let cell = cells.entry((order.product, end)).or_default();
                cell.orders += 1;
                cell.cents += order.cents;
            }
            *newest = order.event_time.max(*newest);
        }
        // A window closes when the watermark passes it: of its own partition, or after a repartition that of the
        // slowest partition. The input must end where both give the same windows.
        let closed_at = |newest: Option<&i64>, end: i64| end + LATENESS <= newest.copied().unwrap_or(i64::MIN).saturating_sub(OUT_OF_ORDER);
        let (slowest, fastest) = (newest.iter().min(), newest.iter().max());
        if cells.keys().any(|(_, end)| closed_at(slowest, *end) != closed_at(fastest, *end)) {
            return Err("the input would end where a window is closed in some partitions only: take some records more".into());
        }
        cells.retain(|(_, end), _| closed_at(slowest, *end));
        expected.windowed = cells.values().map(|c| c.orders).sum();
        expected.windows = cells;
        Ok(expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_json_of_the_stated_size() {
        let orders = Orders::new(1_000, 100, 1_700_000_000_000);
        for order in orders.iter() {
            let mut value = Vec::new();
            order.value(1_700_000_000_000_000_000, &mut value);
            assert_eq!(value.len(), VALUE_BYTES, "{}", String::from_utf8_lossy(&value));
            let read: serde_json::Value = serde_json::from_slice(&value).unwrap();
            assert_eq!(read["event_time"].as_i64(), Some(order.event_time));
            assert_eq!((read["amount"].as_f64().unwrap() * 100.0).round() as u64, order.cents);
        }
    }

    #[test]
    fn partitions_are_those_of_kafkas_clients() {
        // From the test of the Java client (UtilsTest.testMurmur2).
        for (text, hash) in [("21", -973932308), ("foobar", -790332482), ("a-little-bit-long-string", -985981536), ("abc", 479470107)] {
            assert_eq!(murmur2(text.as_bytes()) as i32, hash, "{text}");
        }
    }

    #[test]
    fn about_half_pass_and_windows_hold_every_row_of_their_time() {
        let orders = Orders::new(50_000, 1_000, 1_700_000_000_000);
        let expected = Expected::of(&orders).unwrap();
        assert!((24_000..26_000).contains(&expected.large), "{}", expected.large);
        let last = expected.windows.keys().map(|(_, end)| *end).max().unwrap();
        let rows = orders.iter().filter(|o| o.event_time < last).count() as u64;
        assert_eq!(expected.windowed, rows, "jitter is within what the watermark allows: nothing is late");
    }
}
