//! Numbers of any precision in the binary format.

use arrow::datatypes::i256;

/// A number as digits to the base 10,000: count, weight of the first, sign, digits after the point, digits.
pub(super) fn numeric(unscaled: i256, scale: u32, limit: Option<(u32, i32)>, out: &mut Vec<u8>) -> Result<(), String> {
    let negative = unscaled.is_negative();
    let digits = unscaled.to_string();
    let digits = digits.trim_start_matches('-').trim_start_matches('0');
    let scale = scale as usize;
    let padded = format!("{digits:0>width$}", width = scale);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    let whole = whole.trim_start_matches('0');
    if let Some((precision, places)) = limit {
        let used = fraction.trim_end_matches('0').len() as i64;
        let room = i64::from(precision) - i64::from(places);
        if used > i64::from(places.max(0)) || whole.len() as i64 > room.max(0) || places < 0 {
            return Err(format!("a number that does not fit into numeric({precision},{places})"));
        }
    }
    let whole = format!("{whole:0>width$}", width = whole.len().div_ceil(4) * 4);
    let mut groups: Vec<i16> = Vec::new();
    let filled = format!("{fraction:0<width$}", width = fraction.len().div_ceil(4) * 4);
    for text in [&whole, &filled] {
        for group in text.as_bytes().chunks(4) {
            groups.push(group.iter().fold(0, |number, digit| number * 10 + i16::from(digit - b'0')));
        }
    }
    let mut weight = (whole.len() / 4) as i16 - 1;
    while groups.first() == Some(&0) {
        groups.remove(0);
        weight -= 1;
    }
    while groups.last() == Some(&0) {
        groups.pop();
    }
    if groups.is_empty() {
        weight = 0;
    }
    let sign: u16 = if negative && !groups.is_empty() { 0x4000 } else { 0 };
    out.extend_from_slice(&((8 + 2 * groups.len()) as i32).to_be_bytes());
    out.extend_from_slice(&(groups.len() as i16).to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&sign.to_be_bytes());
    out.extend_from_slice(&(scale as i16).to_be_bytes());
    groups.iter().for_each(|group| out.extend_from_slice(&group.to_be_bytes()));
    Ok(())
}
