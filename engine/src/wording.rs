//! Removes values from causes before they are logged.

/// Characters of a cause that are logged.
const MOST: usize = 300;
/// Digits that an index has: with more it may be a value.
const MOST_DIGITS: usize = 4;

/// A cause that is shown by [`without_values`], when it is shown.
pub struct WithoutValues<'a>(pub &'a str);

impl std::fmt::Display for WithoutValues<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&without_values(self.0))
    }
}

/// A cause without the values that it quotes: what stands in single or double quotes, and digits, but those of an index (`items[3]`) and
/// of a width (64-bit). Logs are read, shipped and kept by others than those who may see the records; the dead letter itself has the
/// whole cause. Names and examples in backticks stay.
pub fn without_values(cause: &str) -> String {
    let mut out = String::new();
    let mut rest = cause.chars().peekable();
    let mut before = ' ';
    while let Some(c) = rest.next() {
        if out.len() >= MOST {
            out.push_str("...");
            break;
        }
        match c {
            '`' => {
                out.push('`');
                for name in rest.by_ref() {
                    out.push(name);
                    if name == '`' || out.len() >= MOST {
                        break;
                    }
                }
            }
            // Not the apostrophe of "can't".
            '\'' | '"' if c == '"' || !before.is_alphanumeric() => {
                out.push_str("'..'");
                // To the last quote: values may have quotes themselves.
                let left: String = rest.clone().collect();
                if let Some(end) = left.rfind(c) {
                    let after = left.get(end + c.len_utf8()..).unwrap_or_default().chars().count();
                    let skip = left.chars().count() - after;
                    rest.nth(skip.saturating_sub(1));
                } else {
                    break;
                }
            }
            c if c.is_ascii_digit() => {
                let mut digits = String::from(c);
                while let Some(digit) = rest.next_if(char::is_ascii_digit) {
                    digits.push(digit);
                }
                let named = |name: &str| name.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '`'));
                let index = rest.peek() == Some(&']') && out.strip_suffix('[').is_some_and(named);
                let ours = digits.len() <= MOST_DIGITS && (index || rest.clone().take(4).eq("-bit".chars()));
                out.push_str(if ours { &digits } else { "#" });
            }
            c => out.push(if c.is_control() { ' ' } else { c }),
        }
        before = c;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::without_values;

    #[test]
    fn values_are_left_out_and_names_stay() {
        let cases = [
            ("Cannot cast string 'alice@example.com' to value of Int64 type", "Cannot cast string '..' to value of Int# type"),
            ("amount: Error parsing timestamp from 'it's \"me\"': bad", "amount: Error parsing timestamp from '..': bad"),
            ("overflow: 9223372036854775807 + 1", "overflow: # + #"),
            ("`card_no`: can't read \"4111\", or 'x", "`card_no`: can't read '..', or '..'"),
            ("the key `region` is null", "the key `region` is null"),
            ("no row in table `vendors` for key 'Ann'", "no row in table `vendors` for key '..'"),
            ("the topic 'audit.ann' does not exist", "the topic '..' does not exist"),
            ("items[2].quantity: expected a 64-bit integer", "items[2].quantity: expected a 64-bit integer"),
            ("at: expected a timestamp such as `2025-01-31T12:00:00Z`", "at: expected a timestamp such as `2025-01-31T12:00:00Z`"),
            ("can't cast [4111] or cards[41111111] or 41111111-bit", "can't cast [#] or cards[#] or #-bit"),
            ("a\u{1b}[31m", "a [#m"),
        ];
        for (cause, logged) in cases {
            assert_eq!(without_values(cause), logged);
        }
        assert!(without_values(&"long ".repeat(100_000)).len() < 320);
        assert!(without_values(&format!("`{}", "x".repeat(100_000))).len() < 320);
    }
}
