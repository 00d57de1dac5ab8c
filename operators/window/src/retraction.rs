//! What a window can't do with rows, or results, that come and go.

use operator_core::changes::OWN_TIME;
use operator_core::{Diagnostic, Mode};

use crate::aggregate::Aggregate;
use crate::spec::{Emit, Window};

/// What is wrong with a window over rows of this mode.
pub fn check(window: &Window, mode: &Mode, aggregates: &[Aggregate], problems: &mut Vec<Diagnostic>) {
    if window.emit == Emit::Changes && window.expire.is_some_and(|expire| expire.0.is_some()) {
        let problem = Diagnostic::error("unbounded-window", "a group that expires would leave its last result behind").at(["expire"]);
        problems.push(
            problem.help("remove `expire`, or write `never`: with `emit: changes` the result of a group stays until its rows are gone"),
        );
    }
    if !mode.is_changes() {
        return;
    }
    for aggregate in aggregates.iter().filter(|aggregate| !aggregate.function.retracts()) {
        let message = format!("the rows are changes, and {} can't take a row back", aggregate.function.said("..").replace("(..)", ""));
        let problem = Diagnostic::error("changes-aggregate", message).at(["compute", &aggregate.name]);
        problems.push(problem.help("over changes there are `count`, `count(DISTINCT x)`, `sum` and `avg`"));
    }
    let wrong = |key: &str, message: &str, help: &str| Diagnostic::error("changes-window", message).at([key]).help(help);
    if window.session.is_some() {
        problems.push(wrong("session", "a row that is gone could split a session that has been joined", "use tumbling windows"));
    }
    let bounded = [("tumbling", window.tumbling.is_some()), ("hopping", window.hopping.is_some())];
    if let Some((key, _)) = bounded.iter().find(|(_, set)| *set && !mode.row_time()) {
        problems.push(wrong(
            key,
            "the event time is when a change happened, so a row would be taken off another window than its own",
            OWN_TIME,
        ));
    }
    match window.emit {
        Emit::OnUpdate | Emit::Every(_) => {
            let message = "the rows are changes: when all rows of a group are gone, its last result would stay";
            problems.push(wrong("emit", message, "write `emit: changes`"));
        }
        Emit::OnClose | Emit::Changes => {}
    }
}
