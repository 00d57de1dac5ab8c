//! Record headers in one binary value, so that they travel through the steps as a column.
//!
//! Encoding, repeated per header: name length (2 bytes), name, value length (4 bytes, all ones for null), value.

use std::borrow::Cow;

/// Names of headers that Headwater writes begin with this.
const OURS: &[u8] = b"hw-";
/// What a record that is read has under such a name is passed on under this one.
const ORIGINAL: &[u8] = b"hw-original-";

/// The name under which a header of a record that was read is passed on. Readers take the first header of a name: a record's own
/// `hw-topic` must not stand for the one of its dead letter.
pub fn of_record(name: &[u8]) -> Cow<'_, [u8]> {
    match name.strip_prefix(OURS) {
        Some(rest) if !name.starts_with(ORIGINAL) => [ORIGINAL, rest].concat().into(),
        _ => name.into(),
    }
}

/// Appends one header.
pub fn push(out: &mut Vec<u8>, name: &[u8], value: Option<&[u8]>) {
    let name = name.get(..usize::from(u16::MAX)).unwrap_or(name);
    out.extend_from_slice(&(name.len() as u16).to_be_bytes());
    out.extend_from_slice(name);
    match value {
        None => out.extend_from_slice(&u32::MAX.to_be_bytes()),
        Some(value) => {
            out.extend_from_slice(&(value.len() as u32).to_be_bytes());
            out.extend_from_slice(value);
        }
    }
}

/// The headers that were pushed, in order; ends early at invalid bytes.
pub fn iter(mut bytes: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length);
        let (value, rest) = match length {
            u32::MAX => (None, rest),
            n => rest.split_at_checked(n as usize).map(|(v, r)| (Some(v), r))?,
        };
        bytes = rest;
        Some((name, value))
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_record_can_not_pretend_to_be_a_dead_letter() {
        let passed_on = |name: &str| String::from_utf8(super::of_record(name.as_bytes()).into_owned()).unwrap();
        let names = ["hw-topic", "hw-original-topic", "trace-id", "hw", ""];
        assert_eq!(names.map(passed_on), ["hw-original-topic", "hw-original-topic", "trace-id", "hw", ""]);
    }

    #[test]
    fn round_trip() {
        let mut bytes = Vec::new();
        super::push(&mut bytes, b"correlation-id", Some(b"abc"));
        super::push(&mut bytes, &[0xff], None);
        let all: Vec<_> = super::iter(&bytes).collect();
        assert_eq!(all, [(&b"correlation-id"[..], Some(&b"abc"[..])), (&[0xff][..], None)]);
        assert_eq!(super::iter(&bytes[..5]).count(), 0);
    }
}
