//! Exact decimals from and to text.

/// Why a text is not a decimal of a precision and scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotDecimal {
    Syntax,
    LeadingZero,
    /// The value has digits that the scale can't hold.
    Fraction,
    /// The value has more digits than the precision.
    TooLarge,
}

impl NotDecimal {
    pub(crate) fn cause(self) -> &'static str {
        match self {
            NotDecimal::Syntax => "not a decimal number",
            NotDecimal::LeadingZero => "a number with a leading zero",
            NotDecimal::Fraction => "more fraction digits than the decimal's scale holds",
            NotDecimal::TooLarge => "more digits than the decimal's precision holds",
        }
    }
}

/// Reads a decimal number in JSON notation (`-12.50`, `3e2`) as an integer count of `10^-scale`.
///
/// Exact: digits that the scale cannot hold are an error unless they are zeros, and so is a value of more than
/// `precision` digits. The text never goes through a binary float.
pub(crate) fn parse_decimal(text: &[u8], precision: u8, scale: i8) -> Result<i128, NotDecimal> {
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, text),
    };
    // value = mantissa * 10^exponent. Zeros wait in `zeros` until a digit after them makes them count, so that
    // trailing zeros never overflow the mantissa.
    let (mut mantissa, mut zeros, mut fraction_digits) = (0i128, 0u32, 0i64);
    let (mut in_fraction, mut integer_digits, mut at) = (false, 0u32, 0usize);
    let mut leading_zero = false;
    while let Some(&byte) = digits.get(at) {
        match byte {
            b'0'..=b'9' => {
                if in_fraction {
                    fraction_digits += 1;
                } else {
                    if integer_digits > 0 && leading_zero {
                        return Err(NotDecimal::LeadingZero);
                    }
                    leading_zero = integer_digits == 0 && byte == b'0';
                    integer_digits += 1;
                }
                if byte == b'0' {
                    zeros = zeros.saturating_add(1);
                } else {
                    let shifted = if mantissa == 0 { Some(0) } else { shift_left(mantissa, zeros.saturating_add(1)) };
                    mantissa = shifted.and_then(|m| m.checked_add(i128::from(byte - b'0'))).ok_or(NotDecimal::TooLarge)?;
                    zeros = 0;
                }
            }
            b'.' if !in_fraction && integer_digits > 0 => in_fraction = true,
            b'e' | b'E' => break,
            _ => return Err(NotDecimal::Syntax),
        }
        at += 1;
    }
    if integer_digits == 0 || (in_fraction && fraction_digits == 0) {
        return Err(NotDecimal::Syntax);
    }
    let exponent = match digits.get(at..) {
        Some([_, rest @ ..]) => parse_exponent(rest)?,
        _ => 0,
    };
    if mantissa == 0 {
        return Ok(0);
    }
    let shift = exponent + i64::from(zeros) - fraction_digits + i64::from(scale);
    if shift < 0 {
        return Err(NotDecimal::Fraction);
    }
    let shift = u32::try_from(shift).map_err(|_| NotDecimal::TooLarge)?;
    let value = shift_left(mantissa, shift).ok_or(NotDecimal::TooLarge)?;
    if !fits_precision(value, precision) {
        return Err(NotDecimal::TooLarge);
    }
    Ok(if negative { -value } else { value })
}

/// Whether the absolute value has at most `precision` decimal digits.
pub(crate) fn fits_precision(value: i128, precision: u8) -> bool {
    match 10u128.checked_pow(u32::from(precision)) {
        Some(limit) => value.unsigned_abs() < limit,
        None => true,
    }
}

fn shift_left(mantissa: i128, digits: u32) -> Option<i128> {
    mantissa.checked_mul(10i128.checked_pow(digits)?)
}

fn parse_exponent(text: &[u8]) -> Result<i64, NotDecimal> {
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() {
        return Err(NotDecimal::Syntax);
    }
    let mut value = 0i64;
    for byte in digits {
        if !byte.is_ascii_digit() {
            return Err(NotDecimal::Syntax);
        }
        // Far beyond any scale, and far from overflowing the sums it takes part in.
        value = (value * 10 + i64::from(byte - b'0')).min(1_000_000_000);
    }
    Ok(if negative { -value } else { value })
}

/// Writes `value * 10^-scale` with all digits of the scale: `1250` at scale 2 becomes `12.50`.
pub(crate) fn write_decimal(value: i128, scale: i8, out: &mut Vec<u8>) {
    let mut buffer = [0u8; 40];
    let mut at = buffer.len();
    let mut rest = value.unsigned_abs();
    let fraction = usize::try_from(scale).unwrap_or(0).min(buffer.len() - 2);
    // At least one digit before the point, so zeros are written until then.
    let mut written = 0;
    while rest > 0 || written <= fraction {
        at = at.saturating_sub(1);
        if let Some(slot) = buffer.get_mut(at) {
            *slot = b'0' + (rest % 10) as u8;
        }
        rest /= 10;
        written += 1;
    }
    if value < 0 {
        out.push(b'-');
    }
    let digits = buffer.get(at..).unwrap_or_default();
    let (whole, part) = digits.split_at(digits.len().saturating_sub(fraction));
    out.extend_from_slice(whole);
    if fraction > 0 {
        out.push(b'.');
        out.extend_from_slice(part);
    } else if scale < 0 && value != 0 {
        out.extend(std::iter::repeat_n(b'0', usize::from(scale.unsigned_abs())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(value: i128, scale: i8) -> String {
        let mut out = Vec::new();
        write_decimal(value, scale, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn decimals_have_all_digits_of_their_scale() {
        assert_eq!(written(1250, 2), "12.50");
        assert_eq!(written(-5, 3), "-0.005");
        assert_eq!(written(0, 2), "0.00");
        assert_eq!(written(7, 0), "7");
        assert_eq!(written(7, -3), "7000");
        assert_eq!(written(0, -3), "0");
        assert_eq!(written(i128::from(u64::MAX), 38), "0.00000000000000000018446744073709551615");
        assert_eq!(written(-(10i128.pow(38) - 1), 38), format!("-0.{}", "9".repeat(38)));
    }

    #[test]
    fn negative_scales_drop_zeros_only() {
        assert_eq!(parse_decimal(b"7000", 4, -3), Ok(7));
        assert!(parse_decimal(b"7100", 4, -3).is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in any::<i128>(), scale in 0i8..=38) {
            let value = value % 10i128.pow(38);
            prop_assert_eq!(parse_decimal(written(value, scale).as_bytes(), 38, scale), Ok(value));
        }

        #[test]
        fn any_text_has_an_outcome(text in "[-+0-9.eE]{0,45}", precision in 1u8..=38, scale in -5i8..=38) {
            let found = parse_decimal(text.as_bytes(), precision, scale);
            let number = serde_json::from_str::<f64>(&text);
            if let Ok(value) = found {
                let near = value as f64 / 10f64.powi(scale.into());
                let expected = number.expect("accepted what is not a JSON number");
                prop_assert!((near - expected).abs() <= expected.abs() * 1e-12, "{near} {expected}");
            }
        }
    }
}
