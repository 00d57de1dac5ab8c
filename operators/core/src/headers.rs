//! Record headers in one binary value, so that they travel through the steps as a column ([`crate::batch::HEADERS`]).
//!
//! Encoding, repeated per header: name length (2 bytes), name, value length (4 bytes, all ones for null), value.

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

/// The value of a header: of several with this name the last one's, as Kafka's `Headers.lastHeader`. `None` if the record
/// has no such header, or a null one.
pub fn value<'a>(bytes: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    iter(bytes).filter(|(other, _)| *other == name).last().and_then(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let mut bytes = Vec::new();
        push(&mut bytes, b"correlation-id", Some(b"abc"));
        push(&mut bytes, &[0xff], None);
        let all: Vec<_> = iter(&bytes).collect();
        assert_eq!(all, [(&b"correlation-id"[..], Some(&b"abc"[..])), (&[0xff][..], None)]);
        assert_eq!(iter(&bytes[..5]).count(), 0);
    }

    #[test]
    fn the_last_header_of_a_name_counts() {
        let mut bytes = Vec::new();
        push(&mut bytes, b"a", Some(b"1"));
        push(&mut bytes, b"b", Some(b""));
        push(&mut bytes, b"a", Some(b"2"));
        push(&mut bytes, b"c", Some(b"3"));
        push(&mut bytes, b"c", None);
        let found = [b"a", b"b", b"c", b"d"].map(|name| value(&bytes, name));
        assert_eq!(found, [Some(&b"2"[..]), Some(&b""[..]), None, None]);
    }
}
