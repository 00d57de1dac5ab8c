//! How far the tasks that write a repartition topic have come.

use operator_core::{Millis, NO_WATERMARK};

/// Watermarks of the tasks that write a repartition topic, as one reader partition has heard of them (rule R6).
#[derive(Clone, Debug)]
pub(super) struct Writers(Vec<Millis>);

impl Writers {
    pub fn new(writers: i32) -> Writers {
        Writers(vec![NO_WATERMARK; writers.max(0) as usize])
    }

    /// Continues at what was committed.
    pub fn restore(&mut self, committed: Vec<Millis>) {
        if committed.len() == self.0.len() {
            self.0 = committed;
        }
    }

    pub fn observe(&mut self, writer: usize, watermark: Millis) {
        if let Some(known) = self.0.get_mut(writer) {
            *known = (*known).max(watermark);
        }
    }

    /// Nothing earlier will come from any writer.
    pub fn watermark(&self) -> Millis {
        self.0.iter().copied().min().unwrap_or(NO_WATERMARK)
    }

    pub fn all(&self) -> &[Millis] {
        &self.0
    }
}
