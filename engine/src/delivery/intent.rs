//! What is about to be inserted, written beside the committed offset before it is.
//!
//! Text form: `hw1;e=7;f=100;l=250;n=3000;c=89ab01cd;s=00c0ffee;t=1767225600000;p=01;k=5a5a5a5a` where `k` is a CRC-32 of
//! everything before it. ASCII because clients convert offset metadata to text, short because brokers limit it to
//! 4096 bytes (`offset.metadata.max.bytes`), and versioned so that a newer format is refused instead of misread.

use std::fmt::Write;

use operator_core::Millis;

use super::block::Path;

/// An encoded intent is never longer (bytes).
pub const MAX_INTENT: usize = 512;

/// Metadata of a position with no unsettled block. Not empty: a tool that resets offsets writes empty metadata, and that
/// must not look like a position of ours.
pub const CLEAN: &str = "hw1";

/// A block that may have been inserted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Run of the pipeline: a new one whenever its output for the same input may differ.
    pub epoch: u64,
    /// First and last offset of the block in the outbox topic (inclusive; gaps are fine).
    pub first: i64,
    pub last: i64,
    /// Rows of the whole block.
    pub rows: u64,
    /// CRC-32 over offsets and bytes of its records.
    pub crc: u32,
    /// How the target splits and names inserts: under other settings the same token may not be recognised.
    pub settings: u32,
    /// Wall clock when this insert was first about to be tried.
    pub created: Millis,
    /// Which part of the block, after refusals.
    pub path: Path,
}

/// What the group has stored for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// No position at all.
    Nothing,
    /// Everything before `offset` is done.
    Clean { offset: i64 },
    /// Everything before `intent.first` is done; the block of `intent` is unsettled.
    Intent { offset: i64, intent: Intent },
    /// A position that was not written by a delivery, or one that cannot be read.
    Foreign { offset: i64, why: String },
}

impl Stored {
    /// Reads a committed position and its metadata.
    pub fn read(offset: i64, metadata: &str) -> Stored {
        if metadata == CLEAN {
            return Stored::Clean { offset };
        }
        match Intent::decode(metadata) {
            Ok(intent) => Stored::Intent { offset, intent },
            Err(why) => Stored::Foreign { offset, why },
        }
    }
}

impl Intent {
    /// The text form, at most [`MAX_INTENT`] bytes.
    pub fn encode(&self) -> String {
        let mut text = format!(
            "hw1;e={};f={};l={};n={};c={:08x};s={:08x};t={};p={}",
            self.epoch, self.first, self.last, self.rows, self.crc, self.settings, self.created, self.path
        );
        let check = crc32fast::hash(text.as_bytes());
        let _ = write!(text, ";k={check:08x}");
        text
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// Says why it is not one: another writer, a newer version, damage.
    pub fn decode(text: &str) -> Result<Intent, String> {
        if text.len() > MAX_INTENT {
            return Err(format!("{} bytes of metadata, an intent has at most {MAX_INTENT}", text.len()));
        }
        let Some(body) = text.strip_prefix("hw1;") else {
            return Err(match text {
                "" => "the position has no metadata: it was not committed by a delivery".to_owned(),
                _ if text.starts_with("hw") => format!("written by another version: {}", clip(text)),
                _ => format!("not a delivery's metadata: {}", clip(text)),
            });
        };
        let (checked, check) = text.rsplit_once(";k=").ok_or("damaged intent: no check sum")?;
        if u32::from_str_radix(check, 16) != Ok(crc32fast::hash(checked.as_bytes())) {
            return Err("damaged intent: the check sum differs".to_owned());
        }
        let mut fields = body.split(';').map(|field| field.split_once('=').unwrap_or((field, "")));
        let mut next = |name: &str| match fields.next() {
            Some((found, value)) if found == name => Ok(value),
            other => Err(format!("damaged intent: expected field {name}, found {:?}", other.map(|(found, _)| found))),
        };
        let intent = Intent {
            epoch: number("e", next("e")?)?,
            first: number("f", next("f")?)?,
            last: number("l", next("l")?)?,
            rows: number("n", next("n")?)?,
            crc: hex("c", next("c")?)?,
            settings: hex("s", next("s")?)?,
            created: number("t", next("t")?)?,
            path: Path::parse(next("p")?)?,
        };
        if intent.first < 0 || intent.last < intent.first {
            return Err(format!("damaged intent: offsets {} to {}", intent.first, intent.last));
        }
        Ok(intent)
    }
}

fn clip(text: &str) -> String {
    format!("{:?}", text.chars().take(40).collect::<String>())
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("damaged intent: {name}={}", clip(text)))
}

fn hex(name: &str, text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 16).map_err(|_| format!("damaged intent: {name}={}", clip(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent() -> Intent {
        Intent {
            epoch: 7,
            first: 100,
            last: 250,
            rows: 3000,
            crc: 0x89ab_01cd,
            settings: 0xc0_ffee,
            created: 1_767_225_600_000,
            path: Path::parse("01").unwrap(),
        }
    }

    #[test]
    fn an_intent_is_read_as_it_was_written() {
        let text = intent().encode();
        assert!(text.starts_with("hw1;e=7;f=100;l=250;n=3000;c=89ab01cd;s=00c0ffee;t=1767225600000;p=01;k="), "{text}");
        assert_eq!(Stored::read(100, &text), Stored::Intent { offset: 100, intent: intent() });
        assert_eq!(Stored::read(9, CLEAN), Stored::Clean { offset: 9 });
    }

    #[test]
    fn the_longest_intent_fits() {
        let path = Path::parse(&"1".repeat(20)).unwrap();
        let longest = Intent {
            epoch: u64::MAX,
            first: i64::MAX,
            last: i64::MAX,
            rows: u64::MAX,
            crc: u32::MAX,
            settings: u32::MAX,
            created: i64::MIN,
            path,
        };
        let text = longest.encode();
        assert!(text.len() <= MAX_INTENT && text.is_ascii(), "{text}");
        assert_eq!(Intent::decode(&text), Ok(longest));
    }

    #[test]
    fn anything_else_is_foreign_and_says_why() {
        let text = intent().encode();
        let newer = text.replacen("hw1", "hw2", 1);
        let cases = [
            (String::new(), "no metadata"),
            ("NO_METADATA".to_owned(), "not a delivery's metadata"),
            (newer, "another version"),
            (text.replace("n=3000", "n=3001"), "check sum differs"),
            (text[..text.len() - 1].to_owned(), "check sum differs"),
            ("hw1;e=1".to_owned(), "no check sum"),
            (format!("hw1;{}", "x".repeat(600)), "at most 512"),
        ];
        for (text, expected) in cases {
            let Stored::Foreign { offset: 5, why } = Stored::read(5, &text) else { panic!("{text} was accepted") };
            assert!(why.contains(expected), "{text}: {why}");
        }
    }

    #[test]
    fn impossible_ranges_are_damage() {
        let text = Intent { first: 10, last: 9, ..intent() }.encode();
        assert!(Intent::decode(&text).unwrap_err().contains("offsets 10 to 9"));
    }
}
