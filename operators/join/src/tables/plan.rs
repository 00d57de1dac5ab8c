//! Checks a join of two streams of changes, and says what its results are changes by.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use operator_core::stores::KeyedRows;
use operator_core::{Diagnostic, InputInfo, Mode, OutputPort, Path, Planned, StateLayout, row_key};
use operator_expr::canonical;

use super::operator::TableJoin;
use crate::plan::{JoinPlan, Named, SIDES, Select, renames};
use crate::spec::{Join, Kind};

/// A checked join of two streams of changes.
#[derive(Debug)]
pub struct TablePlan {
    pub join: JoinPlan,
    /// The columns that say which row a change is about, and their types.
    pub ids: [Vec<Path>; 2],
    pub id_types: [Vec<DataType>; 2],
}

impl TablePlan {
    /// The rows of each side in state.
    pub fn rows(&self) -> [KeyedRows; 2] {
        [0, 1].map(|place: u8| {
            let (side, id) = (&self.join.sides[usize::from(place)], &self.id_types[usize::from(place)]);
            KeyedRows::new(1 + place, side.key_types.clone(), id.clone(), side.codec.clone())
        })
    }
}

/// Whether the inputs are two streams of changes.
///
/// # Errors
/// One of them is, or the settings are those of the other kind of join.
pub fn are_tables(join: &Join, inputs: [&InputInfo; 2]) -> Result<bool, Diagnostic> {
    let modes = inputs.map(|input| input.mode.is_changes());
    if let Some(changing) = modes.iter().position(|mode| *mode).filter(|_| modes.contains(&false)) {
        let (one, other) = (SIDES[changing], SIDES[1 - changing]);
        let message = format!("`{one}` is a stream of {}, and `{other}` has rows that are only added", inputs[changing].mode);
        let help =
            "join two streams of changes, or two of rows that are only added; `enrich` adds columns of a table to rows that are only added";
        return Err(Diagnostic::error("no-changes", message).help(help));
    }
    let tables = modes == [true; 2];
    let wrong = |message: &str| Err(Diagnostic::error("join-within", message));
    match join.within {
        None if !tables => wrong("`within` is missing: how far apart in event time the two rows may be").map_err(|found: Diagnostic| {
            found.help("write `within: 15m`, or `within: { before: 5m, after: 1h }`: the step keeps rows for about as long")
        }),
        Some(_) if tables => wrong("the inputs are streams of changes: their rows stay until they are gone, whatever their time")
            .map_err(|found: Diagnostic| found.at(["within"]).help("remove `within`")),
        _ if tables && join.lateness.millis() != 0 => wrong("the inputs are streams of changes: none of their rows is late")
            .map_err(|found: Diagnostic| found.at(["lateness"]).help("remove `lateness`")),
        _ => Ok(tables),
    }
}

/// The columns that say which row a change of each side is about, with their types.
pub fn ids(inputs: [&InputInfo; 2], problems: &mut Vec<Diagnostic>) -> Option<[(Vec<Path>, Vec<DataType>); 2]> {
    let before = problems.len();
    let of = |side: usize, problems: &mut Vec<Diagnostic>| {
        row_key(&format!("`{}`", SIDES[side]), inputs[side]).unwrap_or_else(|problem| {
            problems.push(problem);
            Default::default()
        })
    };
    let found = [of(0, problems), of(1, problems)];
    (problems.len() == before).then_some(found)
}

/// The planned step.
pub fn planned(join: &Join, plan: TablePlan, named: &[Named], mut main: OutputPort) -> Planned {
    // Results that are gone have the times of the rows in state, which were those when they came.
    main.mode = Mode::Changes { key: key(join, &plan, named), row_time: true };
    let [left, right] = plan.rows();
    let state = StateLayout::default().store("left", &left.layout()).store("right", &right.layout());
    let sides = &plan.join.sides;
    let on: Vec<String> = sides[0].key.iter().zip(&sides[1].key).map(|(a, b)| format!("left.{a} = right.{b}")).collect();
    let select = plan.join.select.iter().flat_map(|select| &select.columns);
    let fallible = select.filter_map(|(name, expr)| Some(expr.fallible()?.at(["select", name]))).collect();
    let needs_key = Some(sides.iter().map(|side| side.key.clone()).collect());
    let reads: Vec<String> = sides.iter().flat_map(|side| &side.key).map(|path| path.first().to_string()).collect();
    let mode = main.mode.to_string();
    let plan = Arc::new(plan);
    let planned = Planned::stateless(main, move || Box::new(TableJoin::new(plan.clone()))).reads(&reads);
    let planned = planned.detail("join", format!("of what both streams of changes hold, {} on {}", join.kind, on.join(" and ")));
    let planned = planned.detail("results", mode).detail("state", "the current row of each key, of either side");
    Planned { state: Some(state), needs_key, fallible, grows: true, ..planned.detail("state expires", "when a row is gone") }
}

/// The columns of the result that say which row of it a change is about; none if they are not all there. The columns of `on` are among
/// them, or follow from them: so the changes of a result are in one partition.
fn key(join: &Join, plan: &TablePlan, named: &[Named]) -> Vec<Path> {
    let (sides, outer) = (&plan.join.sides, join.kind.outer());
    let select = plan.join.select.as_ref();
    // At most one row of the side for each of the other.
    let one = |side: usize| plan.ids[side].iter().all(|path| sides[side].key.contains(path));
    let of_side = |side: usize| plan.ids[side].iter().map(move |path| (side, path.clone())).collect::<Vec<_>>();
    let column = |side: usize, path: &Path| {
        let equal = || {
            // The other side's column of `on` has the same value, unless a side can be missing.
            let place = sides[side].key.iter().position(|of_key| of_key == path).filter(|_| join.kind == Kind::Inner)?;
            renamed(1 - side, sides[1 - side].key.get(place)?, named, select)
        };
        renamed(side, path, named, select).or_else(equal)
    };
    let columns = |wanted: Vec<(usize, Path)>| wanted.iter().map(|(side, path)| column(*side, path)).collect::<Option<Vec<Path>>>();
    // Whether a result can be without a row of the side.
    let missing = |side: usize| outer[1 - side];
    let columns = |wanted: Vec<(usize, Path)>| {
        let mut wanted = wanted;
        for on in sides[0].key.iter().zip(&sides[1].key).map(|(a, b)| [(0, a.clone()), (1, b.clone())]) {
            if !on.iter().any(|of| !missing(of.0) && wanted.contains(of)) {
                let always = on.iter().find(|of| !missing(of.0)).map(std::slice::from_ref).unwrap_or(&on);
                wanted.extend(always.iter().filter(|of| !wanted.contains(of)).cloned().collect::<Vec<_>>());
            }
        }
        columns(wanted)
    };
    let left = (one(1) && !outer[1]).then(|| columns(of_side(0))).flatten();
    let right = || (one(0) && !outer[0]).then(|| columns(of_side(1))).flatten();
    let either = || if one(0) && one(1) { coalesced(plan) } else { None };
    let both = || columns([of_side(0), of_side(1)].concat());
    left.or_else(right).or_else(either).or_else(both).unwrap_or_default()
}

/// Where the column or field of a side is in the result.
fn renamed(side: usize, path: &Path, named: &[Named], select: Option<&Select>) -> Option<Path> {
    renames(side, named, select).into_iter().find(|(old, _)| old == path).map(|(_, new)| new)
}

/// The function that takes whichever value is there.
const NAME: &str = "coalesce";

/// The columns of the result that are the columns of `on` of whichever side is there: `coalesce(left.id, right.id)`.
fn coalesced(plan: &TablePlan) -> Option<Vec<Path>> {
    let [left, right] = &plan.join.sides;
    let select = plan.join.select.as_ref()?;
    let of = |(a, b): (&Path, &Path)| {
        let (a, b) = (format!("left.{a}"), format!("right.{b}"));
        let wanted = [format!("({a}, {b})"), format!("({b}, {a})")].map(|of| canonical(&format!("{NAME}{of}")));
        // Names of functions have no case, those of columns have.
        let same = |sql: &str, wanted: &str| {
            sql.split_at_checked(NAME.len()).is_some_and(|(name, of)| name.eq_ignore_ascii_case(NAME) && wanted.ends_with(of))
        };
        let found = select.columns.iter().find(|(_, expr)| wanted.iter().any(|wanted| same(&canonical(expr.sql()), wanted)));
        found.map(|(name, _)| Path::column(name))
    };
    left.key.iter().zip(&right.key).map(of).collect()
}

/// Both schemas with the column of changes.
pub fn changing(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().cloned().chain([Arc::new(operator_core::changes::field())]);
    Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()))
}
