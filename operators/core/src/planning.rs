//! Planning a step: what holds for every kind.

use crate::batch::{FUTURE, HEADERS, METADATA, OFFSET, TIME, WATERMARK};
use crate::changes::{CHANGE, OWN_TIME, has_changes};
use crate::diagnostic::{Diagnostic, names};
use crate::spec::{PlanCx, Planned, Spec};

/// Columns about the record that brought a row, in which the record that takes it away differs. (Topic, partition and key are the same.)
const OF_ONE_RECORD: [&str; 7] = {
    let [_, _, _, timestamp, value] = METADATA;
    [timestamp, value, HEADERS, OFFSET, WATERMARK, FUTURE, CHANGE]
};

/// Plans a step, with the checks that changes need whatever the kind: the kind takes them ([`Spec::REFUSES_CHANGES`]), and its
/// expressions read nothing that a row and its revocation don't have in common.
///
/// # Errors
/// What is wrong, of the step.
pub fn plan<S: Spec>(spec: &S, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
    let mut changing = std::iter::once(cx.input).chain(cx.others).filter(|input| input.mode.is_changes());
    let Some(first) = changing.next() else { return checked(spec.plan(cx)?) };
    if let Some(help) = S::REFUSES_CHANGES {
        let message = format!("`{}` takes rows that are only added, and its input is a stream of {}", S::KIND, first.mode);
        return Err(vec![Diagnostic::error("no-changes", message).help(help)]);
    }
    let row_time = std::iter::once(cx.input).chain(cx.others).all(|input| input.mode.row_time());
    let planned = spec.plan(cx)?;
    let differs = |name: &&str| OF_ONE_RECORD.contains(name) || *name == TIME && !row_time;
    let read: Vec<&str> = planned.reads.iter().map(String::as_str).filter(differs).collect();
    if !read.is_empty() {
        let help = match read.as_slice() {
            [TIME] => OWN_TIME,
            _ => "the input is a stream of changes: read columns of the row",
        };
        let message =
            format!("{} can't be read here: it differs between the record that brings a row and the one that takes it away", names(read));
        return Err(vec![Diagnostic::error("changes-about-record", message).help(help)]);
    }
    checked(planned)
}

/// Outputs have the column exactly if they are changes.
fn checked(planned: Planned) -> Result<Planned, Vec<Diagnostic>> {
    let differs = planned.outputs.iter().find(|port| has_changes(&port.schema) != port.mode.is_changes());
    match differs {
        None => Ok(planned),
        Some(port) => Err(vec![Diagnostic::error(
            "error",
            format!("output `{}` is {}, and its columns are not: this is a bug", port.name, port.mode),
        )]),
    }
}
