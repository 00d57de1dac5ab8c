//! How far the tasks that write a repartition topic have come.

use operator_core::{Millis, NO_WATERMARK};

/// Watermarks of the tasks that write a repartition topic, as one reader partition has heard of them (rule R6), and what they have
/// reached (`reached.rs`), which is not committed: it is heard again.
#[derive(Clone, Debug)]
pub(super) struct Writers {
    watermarks: Vec<Millis>,
    reached: Vec<Millis>,
}

impl Writers {
    pub fn new(writers: i32) -> Writers {
        let none = vec![NO_WATERMARK; writers.max(0) as usize];
        Writers { watermarks: none.clone(), reached: none }
    }

    /// Continues at what was committed.
    pub fn restore(&mut self, committed: Vec<Millis>) {
        if committed.len() == self.watermarks.len() {
            self.watermarks = committed;
        }
    }

    pub fn observe(&mut self, writer: usize, watermark: Millis, reached: Option<Millis>) {
        if let (Some(known), Some(before)) = (self.watermarks.get_mut(writer), self.reached.get_mut(writer)) {
            *known = (*known).max(watermark);
            // Workers of earlier versions say how far the watermark has come alone.
            *before = (*before).max(reached.unwrap_or(watermark));
        }
    }

    /// Nothing earlier will come from any writer.
    pub fn watermark(&self) -> Millis {
        self.watermarks.iter().copied().min().unwrap_or(NO_WATERMARK)
    }

    /// Up to which time everything that was appended to their inputs has come.
    pub fn reached(&self) -> Millis {
        let of = |(watermark, reached): (&Millis, &Millis)| *watermark.max(reached);
        self.watermarks.iter().zip(&self.reached).map(of).min().unwrap_or(NO_WATERMARK)
    }

    pub fn all(&self) -> &[Millis] {
        &self.watermarks
    }
}
