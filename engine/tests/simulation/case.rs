//! The input of a run, drawn from its seed.

pub const PARTITIONS: i32 = 3;

/// What the wall clock shows when the sources have been silent: once between the two halves of the input, and once behind it. By
/// then every partition has followed the clock for minutes.
pub const SILENT_AT: [i64; 2] = [1_767_226_000_000, 1_767_226_400_000];
/// `idle` and `out_of_order` of the source: how far a silent partition trails the clock.
pub const TRAILS: i64 = 62_000;

/// One input record.
#[derive(Clone, Debug)]
pub struct Order {
    pub topic: &'static str,
    pub partition: i32,
    pub id: String,
    pub product: String,
    pub amount: i64,
    pub at: i64,
    /// Not a record that can be decoded.
    pub broken: bool,
    /// The half of the input it belongs to: the sources are silent behind each.
    pub half: usize,
    /// Where it is in its partition, once it was written.
    pub offset: i64,
}

impl Order {
    /// The value of its record.
    pub fn text(&self) -> String {
        let Order { id, product, amount, at, .. } = self;
        match self.broken {
            true => format!("{{\"id\":\"{id}\",\"amount\":\"x\""),
            false => format!("{{\"id\":\"{id}\",\"product\":\"{product}\",\"amount\":{amount},\"at\":{at}}}"),
        }
    }
}

/// The input of a run.
#[derive(Clone)]
pub struct Case {
    pub orders: Vec<Order>,
    /// Where they are written. Orders of one id are in one topic.
    pub topics: &'static [&'static str],
    /// A setting of the topic `copies`, of which some orders make records that the brokers refuse.
    pub limit: Option<&'static str>,
    /// In a disturbed run some orders are written in transactions of their application, which decide about their order, too.
    pub in_transactions: bool,
    /// By how many milliseconds the wall clock is wrong at times. Timers of the wall clock that are set meanwhile fire later by as much.
    pub clock_ahead: i64,
}

/// Small deterministic random numbers.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n.max(1)
    }
}

impl Case {
    pub fn new(seed: u64) -> Case {
        Case::over(&["orders"], seed)
    }

    /// Orders in several topics.
    pub fn over(topics: &'static [&'static str], seed: u64) -> Case {
        let mut random = Random::new(seed);
        let start = 1_767_225_000_000;
        let mut orders = Vec::new();
        for i in 0..400 {
            let number = random.below(20);
            let (id, topic) = (format!("id{number}"), topics[number as usize % topics.len()]);
            let half = usize::from(i >= 200);
            // The second half is as new as the clock; what is older than the silence before it is late.
            let begin = if half == 0 { start } else { SILENT_AT[0] - 200 * 250 };
            let before = match random.below(24) {
                0 | 1 => 25_000,
                2 if half == 1 => 300_000,
                _ => 0,
            };
            let at = begin + i * 250 + random.below(3_000) as i64 - 1_500 - before;
            let partition = headwater_formats::partition(id.as_bytes(), PARTITIONS);
            let amount = random.below(100) as i64 - 10;
            let product = format!("p{}", random.below(5));
            orders.push(Order { topic, partition, id, product, amount, at, broken: random.below(40) == 0, half, offset: -1 });
        }
        Case { orders, topics, limit: None, in_transactions: true, clock_ahead: 3_600_000 }
    }

    /// Some orders are too large for the topic `copies`, though not for others.
    pub fn refused(seed: u64) -> Case {
        let mut random = Random::new(seed ^ 5);
        let mut case = Case { limit: Some("{ max.message.bytes: '400' }"), ..Case::new(seed) };
        for order in case.orders.iter_mut().filter(|_| random.below(10) == 0) {
            order.product.extend(std::iter::repeat_n('x', 400));
        }
        case
    }

    /// The brokers refuse its copy.
    pub fn refuses(&self, order: &Order) -> bool {
        self.limit.is_some() && order.product.len() > 100
    }
}
