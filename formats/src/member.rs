//! Which declared field a member of a JSON object belongs to.

use arrow::datatypes::Fields;

use crate::cause::Fail;
use crate::scan::Cursor;

/// Members looked at ahead of the expected one before the name is looked up.
const LOOKAHEAD: usize = 4;
/// Longest separator, name and colon that is remembered.
const MAX_TEXT: usize = 96;
/// Members remembered beyond the number of fields.
const MAX_MEMBERS: usize = 256;
/// How often an object may outgrow its memory before the decoder stops learning: its members have no order.
const MAX_RESTARTS: u32 = 16;

/// The declared fields by name.
pub(crate) struct Names {
    /// Sorted by length, then bytes; with the index of the field. Of fields with the same name the first is found.
    sorted: Vec<(Box<[u8]>, usize)>,
}

impl Names {
    pub(crate) fn new(fields: &Fields) -> Names {
        let mut sorted: Vec<(Box<[u8]>, usize)> = fields.iter().enumerate().map(|(i, f)| (f.name().as_bytes().into(), i)).collect();
        sorted.sort_by(|(a, i), (b, j)| (a.len(), a, i).cmp(&(b.len(), b, j)));
        sorted.dedup_by(|(b, _), (a, _)| a == b);
        Names { sorted }
    }

    fn find(&self, name: &[u8]) -> Option<usize> {
        let found = self.sorted.binary_search_by(|(known, _)| (known.len(), known.as_ref()).cmp(&(name.len(), name)));
        self.sorted.get(found.ok()?).map(|(_, index)| *index)
    }
}

/// A member seen before: the text from the end of the previous value to the start of this one, and its field.
struct Seen {
    text: Vec<u8>,
    /// Whether it was the first of its object, and so has no comma in front.
    first: bool,
    field: Option<usize>,
}

/// The members of one object in the order the last records had them.
#[derive(Default)]
pub(crate) struct Layout {
    seen: Vec<Seen>,
    restarts: u32,
}

impl Layout {
    /// If the text continues with a remembered member, consumes it up to its value and returns its field (`None`: it is
    /// not declared). `expected` is the place in the layout and moves on.
    #[inline(always)]
    pub(crate) fn follow(&self, cursor: &mut Cursor<'_>, expected: &mut usize, first: bool) -> Option<Option<usize>> {
        for place in *expected..*expected + LOOKAHEAD {
            let seen = self.seen.get(place)?;
            if seen.first == first && cursor.eat_exact(&seen.text) {
                *expected = place + 1;
                return Some(seen.field);
            }
        }
        None
    }

    /// Scans the next member up to its value and remembers it; `None` at the end of the object.
    #[inline(never)]
    pub(crate) fn learn(
        &mut self,
        cursor: &mut Cursor<'_>,
        names: &Names,
        expected: &mut usize,
        first: bool,
        scratch: &mut Vec<u8>,
    ) -> Result<Option<Option<usize>>, Fail> {
        let start = cursor.position();
        match cursor.peek_token() {
            Some(b'}') => {
                cursor.advance();
                return Ok(None);
            }
            Some(b',') if !first => {
                cursor.advance();
                cursor.skip_space();
            }
            Some(b'"') if first => {}
            _ if first => return Err(cursor.expected("a member name or '}'")),
            _ => return Err(cursor.expected("',' or '}'")),
        }
        if cursor.peek() != Some(b'"') {
            return Err(cursor.expected("a member name"));
        }
        let field = names.find(cursor.string(scratch)?);
        cursor.colon()?;
        cursor.skip_space();
        self.remember(cursor.slice(start, cursor.position()), field, expected, first);
        Ok(Some(field))
    }

    fn remember(&mut self, text: &[u8], field: Option<usize>, expected: &mut usize, first: bool) {
        if text.len() > MAX_TEXT || self.restarts >= MAX_RESTARTS {
            return;
        }
        if self.seen.len() >= MAX_MEMBERS {
            self.seen.clear();
            self.restarts += 1;
            *expected = 0;
        }
        let place = (*expected).min(self.seen.len());
        self.seen.insert(place, Seen { text: text.to_vec(), first, field });
        *expected = place + 1;
    }
}
