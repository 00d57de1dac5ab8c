//! When the n-th event is due: a constant rate, or a constant rate with one spike in it.

use std::fmt;
use std::str::FromStr;

/// A burst: `factor` times the rate from `at` on, for `length` (without end, when absent). Written `10x@30s` or `10x@30s:10s`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spike {
    /// How many times the usual rate.
    pub factor: f64,
    /// Seconds from the start of the load to the start of the burst.
    pub at: f64,
    /// Seconds the burst lasts; `None` until the end.
    pub length: Option<f64>,
}

impl FromStr for Spike {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a spike: write FACTORx@START or FACTORx@START:LENGTH, for example 10x@30s or 10x@30s:10s");
        let (factor, when) = text.split_once("x@").ok_or_else(wrong)?;
        let factor: f64 = factor.trim().parse().map_err(|_| wrong())?;
        if !(factor.is_finite() && factor > 0.0) {
            return Err(format!("the factor of the spike `{text}` must be above zero"));
        }
        let (at, length) = match when.split_once(':') {
            Some((at, length)) => (at, Some(seconds(length)?)),
            None => (when, None),
        };
        Ok(Spike { factor, at: seconds(at)?, length })
    }
}

impl fmt::Display for Spike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x@{}s", self.factor, self.at)?;
        self.length.map_or(Ok(()), |length| write!(f, ":{length}s"))
    }
}

/// Parses a length of time: `250ms`, `3s`, `2m`, `1h`, or a plain number of seconds.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        unit => {
            return Err(format!("`{unit}` in `{text}` is not a unit of time: use ms, s, m or h"));
        }
    };
    match digits.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number * scale),
        _ => Err(format!("`{text}` is not a length of time: write for example 250ms, 3s or 2m")),
    }
}

/// The rate over time, as a function from the number of an event to the moment it is due. Pure, so that the same load has the
/// same times in every run.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    rate: f64,
    /// Numbers of the first event in the burst and of the first one after it.
    burst: Option<(f64, f64, Spike)>,
}

impl Schedule {
    /// A schedule of `rate` events per second; rates below one event in 1,000 s count as that.
    pub fn new(rate: f64, spike: Option<Spike>) -> Self {
        let rate = if rate.is_finite() { rate.max(0.001) } else { 1e9 };
        let burst = spike.map(|spike| {
            let first = rate * spike.at;
            let events = spike.length.map_or(f64::INFINITY, |length| rate * spike.factor * length);
            (first, first + events, spike)
        });
        Schedule { rate, burst }
    }

    /// Microseconds from the start of the load until the event with this number (from 0) is due.
    pub fn due_us(&self, number: u64) -> u64 {
        let n = number as f64;
        let seconds = match self.burst {
            Some((first, past, spike)) if n > first => {
                let inside = n.min(past) - first;
                spike.at + inside / (self.rate * spike.factor) + (n - past).max(0.0) / self.rate
            }
            _ => n / self.rate,
        };
        (seconds * 1e6) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spikes_are_read_as_written() {
        let spike: Spike = "10x@30s".parse().unwrap();
        assert_eq!(spike, Spike { factor: 10.0, at: 30.0, length: None });
        let spike: Spike = "2.5x@1m:500ms".parse().unwrap();
        assert_eq!(spike, Spike { factor: 2.5, at: 60.0, length: Some(0.5) });
        assert_eq!(spike.to_string().parse::<Spike>().unwrap(), spike);
    }

    #[test]
    fn what_is_no_spike_says_what_would_be() {
        for wrong in ["", "10", "10x", "x@3s", "10x@", "0x@3s", "-1x@3s", "10x@3y", "10x@3s:", "NaNx@1s", "10x@-3s"] {
            let message = wrong.parse::<Spike>().unwrap_err();
            assert!(!message.is_empty(), "{wrong}");
        }
        assert!("10x".parse::<Spike>().unwrap_err().contains("10x@30s"));
        assert!("10x@3y".parse::<Spike>().unwrap_err().contains("use ms, s, m or h"));
    }

    #[test]
    fn a_spike_squeezes_the_times_and_then_lets_go() {
        let plain = Schedule::new(100.0, None);
        assert_eq!((plain.due_us(0), plain.due_us(1), plain.due_us(500)), (0, 10_000, 5_000_000));
        let spiked = Schedule::new(100.0, Some("10x@2s:1s".parse().unwrap()));
        // 200 events in two seconds, 1,000 in the third, 100 in the fourth.
        assert_eq!(
            (spiked.due_us(200), spiked.due_us(700), spiked.due_us(1200), spiked.due_us(1300)),
            (2_000_000, 2_500_000, 3_000_000, 4_000_000)
        );
        let for_good = Schedule::new(100.0, Some("10x@2s".parse().unwrap()));
        assert_eq!(for_good.due_us(10_200), 12_000_000);
        assert!((0..5000).all(|n| spiked.due_us(n) <= spiked.due_us(n + 1)));
    }
}
