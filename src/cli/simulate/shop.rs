//! Orders and users, written at a rate.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use headwater_engine::broker::Broker;
use headwater_engine::worker::Stop;
use headwater_generate::simulate::{Orders, Record, Users};

use super::writer::Writer;
use crate::diagnose::Problem;

/// How long is waited at a time: what is due within it is written together.
const TICK: Duration = Duration::from_millis(10);
/// Most records that are written together.
const MOST: usize = 1_000;

/// Receives the stock, then places orders, `rate` per second, until the last one or `stop`. `tell` hears how many, now and then.
///
/// # Errors
/// The broker can't be reached, or does not acknowledge a record.
pub fn orders(
    broker: &dyn Broker,
    partitions: i32,
    orders: &mut Orders,
    rate: f64,
    stop: &Stop,
    tell: &mut dyn FnMut(u64),
) -> Result<u64, Problem> {
    let mut writer = Writer::open(broker, &["business.orders.placed", "commands.inventory"], partitions)?;
    let stock: Vec<Record> = orders.stock(now()).collect();
    for some in stock.chunks(MOST) {
        writer.write(some)?;
    }
    paced(&mut writer, rate, stop, &mut |now| orders.place(now), tell)
}

/// Writes events of users, `rate` per second, until the last one or `stop`. `tell` hears how many, now and then.
///
/// # Errors
/// The broker can't be reached, or does not acknowledge a record.
pub fn users(
    broker: &dyn Broker,
    partitions: i32,
    users: &mut Users,
    rate: f64,
    stop: &Stop,
    tell: &mut dyn FnMut(u64),
) -> Result<u64, Problem> {
    let mut writer = Writer::open(broker, &["business.users.events"], partitions)?;
    paced(&mut writer, rate, stop, &mut |now| users.next(now), tell)
}

fn paced(
    writer: &mut Writer,
    rate: f64,
    stop: &Stop,
    next: &mut dyn FnMut(i64) -> Option<Record>,
    tell: &mut dyn FnMut(u64),
) -> Result<u64, Problem> {
    let (began, mut written) = (Instant::now(), 0u64);
    while !stop.is_stopped() {
        let due = (began.elapsed().as_secs_f64() * rate) as u64 + 1;
        let wanted = usize::try_from(due.saturating_sub(written)).unwrap_or(MOST).min(MOST);
        if wanted == 0 {
            stop.pause(TICK);
            continue;
        }
        let records: Vec<Record> = std::iter::from_fn(|| next(now())).take(wanted).collect();
        writer.write(&records)?;
        written += records.len() as u64;
        tell(written);
        if records.len() < wanted {
            break;
        }
    }
    Ok(written)
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
