//! A catalog whose answers are remembered, so that planning twice asks once and sees the same.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::{Catalog, Registered};

/// Answers by what was asked.
type Answers<T> = RefCell<BTreeMap<String, T>>;

pub(super) struct Remembered<'a> {
    catalog: &'a dyn Catalog,
    subjects: Answers<Result<Option<Registered>, String>>,
    partitions: Answers<Result<Option<i32>, String>>,
    configs: Answers<Vec<(String, String)>>,
    topics: RefCell<Option<Result<Vec<String>, String>>>,
}

impl<'a> Remembered<'a> {
    pub fn new(catalog: &'a dyn Catalog) -> Remembered<'a> {
        let (subjects, partitions, configs) = Default::default();
        Remembered { catalog, subjects, partitions, configs, topics: RefCell::default() }
    }
}

fn remembered<T: Clone>(answers: &Answers<T>, name: &str, ask: impl FnOnce() -> T) -> T {
    answers.borrow_mut().entry(name.to_string()).or_insert_with(ask).clone()
}

impl Catalog for Remembered<'_> {
    fn subject(&self, subject: &str) -> Result<Option<Registered>, String> {
        remembered(&self.subjects, subject, || self.catalog.subject(subject))
    }

    fn partitions(&self, topic: &str) -> Result<Option<i32>, String> {
        remembered(&self.partitions, topic, || self.catalog.partitions(topic))
    }

    fn topic_config(&self, topic: &str) -> Vec<(String, String)> {
        remembered(&self.configs, topic, || self.catalog.topic_config(topic))
    }

    fn topics(&self) -> Result<Vec<String>, String> {
        self.topics.borrow_mut().get_or_insert_with(|| self.catalog.topics()).clone()
    }

    fn is_offline(&self) -> bool {
        self.catalog.is_offline()
    }
}
