//! Whatever participants do and whatever happens to their answers, a saga ends, and what it leaves is right.

use std::collections::BTreeMap;

use operator_saga::Saga;
use operator_saga::definition::{Call, Definition, Said};
use operator_saga::machine::{Effect, Event, Instance, Phase, Place, Status, step};
use proptest::prelude::*;

const SAGA: &str = r#"{
    "id": { "start": "id", "replies": "id", "repairs": "id" },
    "steps": {
        "reserve": { "each": "lines", "by": "line.sku", "answers_for": "data.sku", "send": { "command": "r.do" }, "done": "r.done",
            "failed": "r.failed", "timeout": "30s", "undo": { "command": "r.undo", "done": "r.undone" } },
        "pay": { "send": { "command": "p.do", "idempotent": false }, "done": "p.done", "failed": "p.failed", "timeout": "2m",
            "unknown": { "command": "p.ask", "not_found": "p.unknown" }, "undo": { "command": "p.undo", "done": "p.undone" } },
        "pack": { "after": "reserve", "send": { "command": "k.do" }, "done": "k.done", "failed": "k.failed", "timeout": "10s",
            "undo": { "command": "k.undo", "done": "k.undone", "failed": "k.not_undone" } },
        "ship": { "after": ["pay", "pack"], "send": { "command": "s.do" }, "done": "s.done", "failed": "s.failed", "timeout": "1h",
            "retry": { "attempts": 1 }, "undo": { "command": "s.undo", "done": "s.undone" } }
    },
    "ends": { "completed": "all.done", "compensated": "all.undone" },
    "stuck": { "after": 3 }
}"#;

/// What a participant has done.
#[derive(Clone, Copy, Default)]
struct Party {
    effects: u32,
    executed: bool,
    refused: bool,
}

/// A saga with its participants. `luck` decides what they do with commands; when it is used up, all of them are willing.
struct Play {
    definition: Definition,
    instance: Instance,
    parties: BTreeMap<Place, Party>,
    /// Answers that were given: the task, what it says, and of a question its number.
    answers: Vec<(Place, Said, u32)>,
    ends: Vec<Phase>,
    luck: Vec<u8>,
    now: i64,
}

impl Play {
    fn new(lines: usize, luck: Vec<u8>) -> Play {
        let (definition, wrong) = serde_json::from_str::<Saga>(SAGA).unwrap().definition();
        assert!(wrong.is_empty());
        let lines = |at: usize| if at == 0 { (0..lines).map(|line| format!("sku-{line}")).collect() } else { vec![String::new()] };
        let instance = Instance::new((0..4).map(lines));
        Play { definition, instance, parties: BTreeMap::new(), answers: Vec::new(), ends: Vec::new(), luck, now: 0 }
    }

    fn luck(&mut self) -> Option<u8> {
        self.luck.pop()
    }

    fn happens(&mut self, event: Event<'_>) {
        let mut effects = Vec::new();
        let _ = step(&self.definition, &mut self.instance, event, self.now, &mut effects);
        for effect in effects {
            match effect {
                Effect::Send { at, call, number } => self.sent(at, call, number),
                Effect::End(phase) => self.ends.push(phase),
                Effect::Stuck { .. } => {}
            }
        }
        let waits = matches!(self.instance.status(), Status::Running | Status::Compensating);
        assert!(!waits || self.instance.due().is_some(), "it waits for nothing: {:?}", self.instance);
    }

    /// A participant gets a command.
    fn sent(&mut self, at: Place, call: Call, number: u32) {
        let luck = self.luck();
        let idempotent = self.definition.steps[at.step].idempotent;
        let party = self.parties.entry(at).or_default();
        let said = match (call, luck.map_or(0, |luck| luck % 4)) {
            (Call::Ask, _) if party.executed => Some(Said::Done),
            (Call::Ask, _) if party.refused => Some(Said::Failed),
            (Call::Ask, _) => Some(Said::NotFound),
            (Call::Do, 0 | 1) => {
                party.effects += u32::from(!(party.executed && idempotent));
                party.executed = true;
                Some(Said::Done)
            }
            (Call::Do, 2) if !party.executed => {
                party.refused = true;
                Some(Said::Failed)
            }
            (Call::Undo, 0..=2) => {
                party.effects = 0;
                Some(Said::Undone)
            }
            _ => None,
        };
        assert!(self.parties[&at].effects < 2, "an effect is there twice: {at:?}");
        self.answers.extend(said.map(|said| (at, said, number)));
    }

    /// One answer comes, which may come again; or time passes to the next deadline.
    fn turn(&mut self, luck: u8) {
        if luck > 250 {
            return self.happens(Event::Retry { step: None });
        }
        let place = usize::from(luck) % (self.answers.len() + 2);
        let Some((at, said, number)) = self.answers.get(place).copied() else { return self.time() };
        if luck.is_multiple_of(3) {
            self.answers.remove(place);
        }
        // Some participants say which command they answer.
        let number = Some(number).filter(|_| said == Said::NotFound || luck.is_multiple_of(2));
        self.happens(Event::Answer { at, said, number, what: "an answer" });
    }

    /// Someone does by hand what a step that is waited for was to do.
    fn skip(&mut self, luck: u8) {
        let step = usize::from(luck) % self.instance.steps.len();
        let waited: Vec<Place> = self.instance.active().filter(|(at, _)| at.step == step).map(|(at, _)| at).collect();
        for at in waited {
            let effects = u32::from(self.instance.phase == Phase::Running);
            self.parties.insert(at, Party { effects, executed: effects > 0, refused: false });
        }
        self.happens(Event::Skip { step: Some(step) });
    }

    fn time(&mut self) {
        let Some(due) = self.instance.due() else { return };
        self.now = self.now.max(due);
        if let Some(at) = self.instance.overdue(due) {
            self.happens(Event::Due { at });
        }
    }

    /// Everything that was said and was not lost comes, and all participants are willing.
    fn end(&mut self) {
        for _ in 0..10_000 {
            match self.answers.pop() {
                Some((at, said, number)) => {
                    self.happens(Event::Answer { at, said, number: Some(number), what: "an answer" });
                }
                None if self.instance.status() == Status::Stuck => self.happens(Event::Retry { step: None }),
                None if self.instance.has_ended() => return,
                None => self.time(),
            }
        }
        panic!("it does not end: {:?}", self.instance);
    }

    fn check(&self) {
        let effects: Vec<u32> = self.instance.tasks().map(|(at, _)| self.parties.get(&at).map_or(0, |party| party.effects)).collect();
        let wanted = u32::from(self.instance.phase == Phase::Completed);
        assert!(self.instance.has_ended() && effects.iter().all(|effects| *effects == wanted), "{effects:?} {:?}", self.instance);
        assert_eq!(self.ends, [self.instance.phase], "it ends once, and as it said");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Answers are lost, doubled, late and in another order.
    #[test]
    fn every_saga_ends_and_leaves_what_it_says(lines in 0usize..4, turns in prop::collection::vec(any::<u8>(), 0..60), luck in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut play = Play::new(lines, luck);
        play.happens(Event::Begin);
        turns.into_iter().for_each(|luck| play.turn(luck));
        play.end();
        play.check();
    }

    /// When nobody answers any more, it ends or is stuck, after a bounded number of attempts.
    #[test]
    fn silence_ends_a_saga(lines in 0usize..4, turns in prop::collection::vec(any::<u8>(), 0..60), luck in prop::collection::vec(any::<u8>(), 40..80)) {
        let mut play = Play::new(lines, luck);
        play.happens(Event::Begin);
        turns.into_iter().for_each(|luck| play.turn(luck));
        for _ in 0..500 {
            play.time();
        }
        prop_assert!(play.instance.has_ended() || play.instance.status() == Status::Stuck, "{:?}", play.instance);
    }

    /// What people did by hand counts like an answer, whatever is said later.
    #[test]
    fn what_is_done_by_hand_counts(turns in prop::collection::vec(any::<u8>(), 0..60), skips in prop::collection::vec(any::<u8>(), 1..4), luck in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut play = Play::new(2, luck);
        play.happens(Event::Begin);
        for turns in turns.chunks(15) {
            turns.iter().for_each(|luck| play.turn(*luck));
            skips.iter().for_each(|luck| play.skip(*luck));
        }
        play.end();
        play.check();
    }

    /// What is skipped by hand is left as it is, and the saga ends.
    #[test]
    fn people_end_what_is_stuck(turns in prop::collection::vec(any::<u8>(), 0..60), luck in prop::collection::vec(any::<u8>(), 40..80)) {
        let mut play = Play::new(2, luck);
        play.happens(Event::Begin);
        turns.into_iter().for_each(|luck| play.turn(luck));
        play.happens(Event::Compensate { why: "by hand" });
        for _ in 0..500 {
            play.time();
            play.happens(Event::Skip { step: None });
        }
        prop_assert!(play.instance.has_ended(), "{:?}", play.instance);
    }
}
