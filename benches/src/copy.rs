//! The limit: a loop that reads records and writes them again, exactly once, and does nothing else.
//!
//! It runs as its own process, so that it is measured like any other program: `headwater-benches copy`.
//!
//! ```text
//! reading thread:  take a batch -> send every record with the current producer -> time is up: hand the producer over
//! committer:       add the input positions to the transaction -> commit -> give the producer back
//! ```
//!
//! With one producer the loop stands still while a transaction commits. With two, the next transaction is already being
//! filled meanwhile; the committer works in order, so positions never go backwards.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use clap::Args;

use crate::native::{Consumer, Membership, Producer, Share};

/// Records of an open transaction at most: beyond, the loop waits for the commit before it.
const MAX_OPEN: u64 = 400_000;
/// How long to wait for records at a time.
const POLL: Duration = Duration::from_millis(5);

/// Options of the copy loop.
#[derive(Args, Clone, Debug)]
pub struct CopyArgs {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    input: String,
    #[arg(long)]
    output: String,
    #[arg(long)]
    group: String,
    /// Milliseconds between commits
    #[arg(long, default_value_t = 100)]
    commit: u64,
    /// Transactional producers that take turns: 1 or 2
    #[arg(long, default_value_t = 2)]
    producers: usize,
    /// Reading threads, each with a consumer and producers of its own
    #[arg(long, default_value_t = 1)]
    lanes: usize,
    #[arg(long, default_value_t = 50)]
    fetch_wait: u64,
    #[arg(long, default_value_t = 5)]
    linger: u64,
}

/// A transaction in flight to the committer.
struct Filled {
    producer: Arc<Producer>,
    offsets: Vec<(i32, i64)>,
    membership: Membership,
}

/// Copies until the process is ended.
pub fn run(args: &CopyArgs) -> Result<(), String> {
    std::thread::scope(|scope| {
        for lane in 0..args.lanes.max(1) {
            scope.spawn(move || {
                if let Err(e) = run_lane(args, lane) {
                    // At once: the other lanes would continue and hide it.
                    eprintln!("lane {lane}: {e}");
                    std::process::exit(1);
                }
            });
        }
    });
    Ok(())
}

fn run_lane(args: &CopyArgs, lane: usize) -> Result<(), String> {
    // Several lanes share the partitions by number: a group that is still gathering would make the first commits fail.
    let share = if args.lanes > 1 { Share::Of(lane as i32, args.lanes as i32) } else { Share::Assigned };
    let mut consumer = Consumer::new(&args.bootstrap, &args.group, &args.input, share, Duration::from_millis(args.fetch_wait))?;
    let (fill, filled) = channel::<Filled>();
    let (give, given) = channel::<Result<Arc<Producer>, String>>();
    for n in 0..args.producers.max(1) {
        let id = format!("{}-{lane}-{n}", args.group);
        let producer = Producer::new(&args.bootstrap, Some(&id), &args.output, Duration::from_millis(args.linger))?;
        give.send(Ok(Arc::new(producer))).map_err(|e| e.to_string())?;
    }
    let input = args.input.clone();
    std::thread::spawn(move || commit(&input, &filled, &give));
    let mut turns = Turns { given, free: VecDeque::new(), alone: args.producers <= 1 };
    let interval = Duration::from_millis(args.commit);
    loop {
        let producer = turns.take()?;
        let offsets = fill_one(&mut consumer, &producer, interval, &mut turns)?;
        fill.send(Filled { producer, offsets, membership: consumer.membership() }).map_err(|e| e.to_string())?;
    }
}

/// The producers that no transaction is open on.
struct Turns {
    given: Receiver<Result<Arc<Producer>, String>>,
    free: VecDeque<Arc<Producer>>,
    alone: bool,
}

impl Turns {
    fn take(&mut self) -> Result<Arc<Producer>, String> {
        match self.free.pop_front() {
            Some(producer) => Ok(producer),
            None => self.given.recv().map_err(|e| e.to_string())?,
        }
    }

    /// The open transaction may be handed over: there is a producer for the next one, or only one at all.
    fn may_turn(&mut self) -> Result<bool, String> {
        while let Ok(producer) = self.given.try_recv() {
            self.free.push_back(producer?);
        }
        Ok(self.alone || !self.free.is_empty())
    }
}

/// Fills one transaction until its time is up. Returns the positions after it.
fn fill_one(consumer: &mut Consumer, producer: &Producer, interval: Duration, turns: &mut Turns) -> Result<Vec<(i32, i64)>, String> {
    let mut offsets: BTreeMap<i32, i64> = BTreeMap::new();
    let (mut records, mut opened) = (0, None::<Instant>);
    loop {
        let left = opened.map(|o| interval.saturating_sub(o.elapsed()));
        let full = records >= MAX_OPEN;
        if (full || left == Some(Duration::ZERO)) && turns.may_turn()? {
            return Ok(offsets.into_iter().collect());
        }
        if full {
            let producer = turns.take()?;
            turns.free.push_back(producer);
            continue;
        }
        // A batch waits until it is full: short, so that records don't wait with it.
        let wait = left.unwrap_or(POLL).clamp(Duration::from_millis(1), POLL);
        consumer.poll(wait, |record| {
            if opened.is_none() {
                producer.begin()?;
                opened = Some(Instant::now());
            }
            records += 1;
            offsets.insert(record.partition, record.offset + 1);
            producer.send(record.partition, record.key, record.value)
        })?;
    }
}

fn commit(input: &str, filled: &Receiver<Filled>, give: &Sender<Result<Arc<Producer>, String>>) {
    for Filled { producer, offsets, membership } in filled {
        let result = producer.commit(input, &offsets, &membership).map(|()| producer);
        if give.send(result).is_err() {
            return;
        }
    }
}
