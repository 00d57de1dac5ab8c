//! Questions to a table that does not answer, and the wait before one.

use super::stops::in_doubt;
use super::*;

/// A rig with a block whose insert nobody knows about, and whose token the table may have forgotten.
fn forgotten() -> Rig {
    let mut rig = Rig::plain();
    rig.append(0, 4, false);
    in_doubt(&rig, TableFault::ReplyLost);
    rig.clock.advance(rig.settings.safe_window);
    rig
}

#[test]
fn a_question_that_fails_is_repeated_with_growing_pauses() {
    let opening = || {
        let mut rig = Rig::plain();
        rig.append(0, 4, false);
        rig
    };
    let refused = || {
        let mut rig = Rig::plain();
        rig.append(0, 1, false);
        rig.finish(&mut [rig.lane(0)]);
        rig.broker.expire_dropped();
        rig.append(0, 1, true);
        rig
    };
    let rigs: [(&str, &dyn Fn() -> Rig); 3] =
        [("an unfinished insert", &forgotten), ("a new partition", &opening), ("a refusal", &refused)];
    for (what, rig) in rigs {
        let rig = rig();
        rig.table.seed(1, &[(TableFault::AskFails, 10_000)]);
        let mut lane = rig.lane(0);
        let mut failed = Vec::new();
        while failed.len() < 9 {
            rig.step(&mut lane).unwrap();
            if lane.counters().retries() > failed.len() as u64 {
                failed.push(rig.clock.monotonic());
            }
        }
        let pauses: Vec<i64> = failed.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (n, pause) in (1..).zip(&pauses) {
            assert!(*pause >= rig.settings.pause(n), "{what}: {pauses:?}");
        }
        assert!(lane.counters().last_error().unwrap().contains("injected"), "{what}");
        rig.table.heal();
        rig.finish(std::slice::from_mut(&mut lane));
        rig.assert_exact(what);
    }
}

#[test]
fn the_wait_before_a_count_is_shown() {
    let rig = forgotten();
    let mut lane = rig.lane(0);
    let began = rig.clock.monotonic();
    while lane.counters().last_error().is_none() {
        rig.step(&mut lane).unwrap();
    }
    let cause = lane.counters().last_error().unwrap();
    assert_eq!(cause, "waits 25 s before it counts the rows of an unfinished insert, which may still happen until then");
    rig.finish(std::slice::from_mut(&mut lane));
    assert!(rig.clock.monotonic() - began >= 25_000);
    assert_eq!((lane.counters().skipped(), lane.counters().last_error()), (1, None));
    rig.assert_exact("after the wait");
}
