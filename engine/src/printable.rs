//! Makes untrusted text safe for terminals and log lines.

/// The text on one line, at most `most` bytes long: without escape sequences, control characters and characters that change the
/// direction of writing. What a server, a broker or a file of somebody else says goes through here before anybody reads it: an
/// escape sequence could repaint the terminal, a line break could forge a line of the log.
pub fn printable(text: &str, most: usize) -> String {
    let mut out = String::new();
    let mut signs = text.chars().peekable();
    while let Some(sign) = signs.next() {
        let shown = match sign {
            '\u{1b}' => {
                match signs.next() {
                    Some('[') => skip_parameters(&mut signs),
                    // A string for the terminal, such as the title of its window, ends with BEL or ESC \.
                    Some(']' | 'P' | 'X' | '^' | '_') => while signs.next().is_some_and(|sign| !matches!(sign, '\u{7}' | '\u{1b}')) {},
                    _ => {}
                }
                continue;
            }
            '\u{9b}' => {
                skip_parameters(&mut signs);
                continue;
            }
            sign if sign.is_whitespace() => ' ',
            sign if sign.is_control() || turns(sign) => '\u{fffd}',
            sign => sign,
        };
        if shown == ' ' && (out.is_empty() || out.ends_with(' ')) {
            continue;
        }
        if out.len() + shown.len_utf8() > most {
            out.truncate(out.trim_end().len());
            out.push('…');
            return out;
        }
        out.push(shown);
    }
    out.truncate(out.trim_end().len());
    out
}

/// What follows `ESC [`: parameters up to a letter.
fn skip_parameters(signs: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    while signs.next_if(|sign| matches!(sign, ' '..='?')).is_some() {}
    signs.next_if(|sign| matches!(sign, '@'..='~'));
}

/// Invisible, or text after it is shown in another order.
fn turns(sign: char) -> bool {
    matches!(sign, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_the_cursor_or_forges_a_line_is_gone() {
        assert_eq!(printable("plain: `é` {\"a\": 1}", 100), "plain: `é` {\"a\": 1}");
        assert_eq!(printable("\u{1b}[31;1mred\u{1b}[0m \u{1b}]0;title\u{7}x\u{1b}cy\u{9b}2Jz", 100), "red xyz");
        assert_eq!(printable("a\r\n{\"level\":\"INFO\"}\t\tb\n", 100), "a {\"level\":\"INFO\"} b");
        assert_eq!(printable("a\u{8}b\u{0}\u{202e}c", 100), "a\u{fffd}b\u{fffd}\u{fffd}c");
        assert_eq!(printable("\u{1b}", 10), "");
        assert_eq!(printable("\u{1b}[", 10), "");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(printable(&"é".repeat(1_000), 5), "éé…");
        assert_eq!(printable("12345", 5), "12345");
    }
}
