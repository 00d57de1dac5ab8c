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

/// How fast orders come.
pub struct Pace {
    /// Orders per second.
    pub rate: f64,
    /// How often the stock is received again; `None`: once.
    pub restock: Option<Duration>,
}

/// Receives the stock, then places orders until the last one or `stop`. `tell` hears how many, now and then.
///
/// # Errors
/// The broker can't be reached, or does not acknowledge a record.
pub fn orders(
    broker: &dyn Broker,
    partitions: i32,
    orders: &mut Orders,
    pace: &Pace,
    stop: &Stop,
    tell: &mut dyn FnMut(u64),
) -> Result<u64, Problem> {
    let mut writer = Writer::open(broker, &["business.orders.placed", "commands.inventory"], partitions)?;
    let (mut received, mut rounds) = (Instant::now(), 0);
    let mut stock = |orders: &Orders, writer: &mut Writer| {
        let due = rounds == 0 || pace.restock.is_some_and(|every| received.elapsed() >= every);
        if due {
            let stock: Vec<Record> = orders.stock(rounds, now()).collect();
            stock.chunks(MOST).try_for_each(|some| writer.write(some))?;
            (received, rounds) = (Instant::now(), rounds + 1);
        }
        Ok(())
    };
    paced(&mut writer, pace.rate, stop, tell, &mut |writer, wanted| {
        stock(orders, writer)?;
        Ok(std::iter::from_fn(|| orders.place(now())).take(wanted).collect())
    })
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
    paced(&mut writer, rate, stop, tell, &mut |_, wanted| Ok(std::iter::from_fn(|| users.next(now())).take(wanted).collect()))
}

/// `next` gives so many records, or the last ones.
fn paced(
    writer: &mut Writer,
    rate: f64,
    stop: &Stop,
    tell: &mut dyn FnMut(u64),
    next: &mut dyn FnMut(&mut Writer, usize) -> Result<Vec<Record>, Problem>,
) -> Result<u64, Problem> {
    let (began, mut written) = (Instant::now(), 0u64);
    while !stop.is_stopped() {
        let due = (began.elapsed().as_secs_f64() * rate) as u64 + 1;
        let wanted = usize::try_from(due.saturating_sub(written)).unwrap_or(MOST).min(MOST);
        if wanted == 0 {
            stop.pause(TICK);
            continue;
        }
        let records = next(writer, wanted)?;
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
