//! Planning a step: what holds for every kind.

use arrow::datatypes::DataType;

use crate::batch::{FUTURE, HEADERS, METADATA, OFFSET, TIME, WATERMARK};
use crate::changes::{CHANGE, OWN_TIME, has_changes};
use crate::diagnostic::{Diagnostic, names};
use crate::keys::is_groupable;
use crate::path::Path;
use crate::spec::{InputInfo, PlanCx, Planned, Spec};
use crate::type_names::said;

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

/// The columns that say which row of a stream of changes a change is about, with their types, for a step that keeps its rows. `stream`: the
/// input in words.
///
/// # Errors
/// The stream has no key, or rows can't be kept by it.
pub fn row_key(stream: &str, input: &InputInfo) -> Result<(Vec<Path>, Vec<DataType>), Diagnostic> {
    let Some(key) = input.mode.key() else {
        let message = format!("{stream} is a stream of {}: nothing says which of its rows is replaced", input.mode);
        let help = "keep the columns of its key in the steps before, under any names, and unnest after this step";
        return Err(Diagnostic::error("changes-key", message).help(help));
    };
    let data_type = |path: &Path| path.field(input.schema.fields()).map_or(DataType::Null, |field| field.data_type().clone());
    let types: Vec<DataType> = key.iter().map(data_type).collect();
    if let Some((path, data_type)) = key.iter().zip(&types).find(|(_, data_type)| !is_groupable(data_type)) {
        let message = format!("{stream} is a stream of changes by `{path}`, which is {}", said(data_type));
        let help = "rows are kept by numbers, texts, bytes, booleans, dates or timestamps";
        return Err(Diagnostic::error("not-groupable", message).help(help));
    }
    Ok((key.to_vec(), types))
}
