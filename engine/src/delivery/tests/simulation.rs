//! Seeded faults of everything at once.

use super::*;

/// Two lanes, every fault of the log and of the table, crashes; then everything heals and must come to rest.
fn simulate(seed: u64, window: usize, safe_window: i64) -> (MemoryTable, BTreeMap<Fault, u64>) {
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut below = move |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % limit
    };
    let mut rig = Rig::new(MemoryBroker::seeded(seed), window);
    rig.settings.safe_window = safe_window;
    rig.fill(6, 4);
    let often = [Fault::CommitRefused, Fault::CommitRequestLost, Fault::CommitReplyLost, Fault::CommitLate, Fault::AbortFails];
    let faults = Faults::everything(seed, 150).with(Fault::Kicked, 60).with(Fault::Rebalance, 60);
    rig.broker.set_faults(often.into_iter().fold(faults, |faults, fault| faults.with(fault, 1_500)));
    let faults = [TableFault::Unavailable, TableFault::RequestLost, TableFault::ReplyLost, TableFault::Late, TableFault::AskFails];
    rig.table.seed(seed, &faults.map(|fault| (fault, 600)));
    let mut lanes = vec![rig.lane(0), rig.lane(1)];
    for _ in 0..600 {
        let at = below(lanes.len() as u64) as usize;
        match below(40) {
            0 => {
                drop(lanes.swap_remove(at));
                let missing = (0..2).find(|n| !lanes.iter().any(|l| l.settings.instance == format!("lane-{n}"))).unwrap();
                lanes.push(rig.lane(missing));
                if below(2) == 0 {
                    rig.broker.expire_dropped();
                }
            }
            1..=4 => {
                let (partition, rows, bad) = (below(3) as i32, 1 + below(12) as usize, below(4) == 0);
                rig.append(partition, rows, bad);
            }
            5 => rig.clock.advance(below(3_000) as i64),
            _ => drop(rig.step(&mut lanes[at]).unwrap_or_else(|error| panic!("seed {seed}: {error}"))),
        }
    }
    let happened = rig.broker.faults_happened();
    rig.broker.heal();
    rig.table.heal();
    rig.broker.settle();
    rig.finish_named(&mut lanes, &format!("seed {seed}"));
    rig.clock.advance(30_000);
    rig.assert_exact(&format!("seed {seed}"));
    (rig.table, happened)
}

#[test]
fn seeded_faults_and_crashes_leave_the_exact_content() {
    let mut happened: BTreeMap<Fault, u64> = BTreeMap::new();
    let mut repeats = 0;
    for seed in 0..100 {
        let (table, faults) = simulate(seed, 10_000, 600_000);
        faults.into_iter().for_each(|(fault, count)| *happened.entry(fault).or_default() += count);
        repeats += table.inserts().1;
    }
    assert!(repeats > 100, "{repeats} inserts were repeated");
    for fault in [Fault::OffsetReplyLost, Fault::Kicked, Fault::Rebalance, Fault::CommitReplyLost, Fault::PollFails] {
        assert!(happened.get(&fault).is_some_and(|count| *count > 5), "{fault:?}: {happened:?}");
    }
}

#[test]
fn seeded_faults_with_a_table_that_forgets_leave_the_exact_content() {
    for seed in 1_000..1_060 {
        simulate(seed, 0, 0);
    }
}

#[test]
fn without_tokens_and_without_counting_rows_would_be_doubled() {
    // The table forgets at once, but is relied on: the simulation must notice.
    let found = (0..40).any(|seed| std::panic::catch_unwind(|| simulate(seed, 0, 600_000)).is_err());
    assert!(found, "no seed out of 40 shows the damage that tokens prevent");
}
