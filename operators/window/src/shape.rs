//! The windows of a step as configured, checked.

use operator_core::{Diagnostic, Millis, Span};

use crate::bounds::{Shape, Windows};
use crate::spec::{Emit, Window};

/// More windows at a time are a configuration error: every row would be added to each.
pub const MAX_OVERLAPPING: i64 = 1_000;
/// The least `expire`.
const MIN_EXPIRE: Millis = 1_000;

/// The windows that `window` asks for.
pub fn windows(window: &Window) -> Result<Windows, Diagnostic> {
    if window.unbounded {
        return unbounded(window);
    }
    if window.expire.is_some() {
        let problem = Diagnostic::error("unbounded-window", "`expire` is only for unbounded windows");
        return Err(problem.at(["expire"]).help("remove `expire`: the state of other windows ends when they close"));
    }
    let lateness = window.lateness.millis();
    let shape = match (window.tumbling, window.hopping, window.session) {
        (Some(size), None, None) => fixed("tumbling", size, size)?,
        (None, Some(hopping), None) => fixed("hopping", hopping.size, hopping.every)?,
        (None, None, Some(session)) => sessions(window, session.gap)?,
        (None, None, None) => {
            return Err(Diagnostic::error("no-window", "the window has no length").help(
                "write `tumbling: 1m`, `hopping: { size: 5m, every: 1m }` for windows that overlap, `session: { gap: 30m }` for windows \
                 that end with a pause, or `unbounded: true` for running totals",
            ));
        }
        (_, _, session) => {
            let last = if session.is_some() { "session" } else { "hopping" };
            let problem = Diagnostic::error("two-windows", "a window has one of `tumbling`, `hopping` and `session`");
            return Err(problem.at([last]).help("remove all but one"));
        }
    };
    Ok(Windows { shape, lateness })
}

fn fixed(key: &str, size: Span, every: Span) -> Result<Shape, Diagnostic> {
    let error = |code, message: String| Diagnostic::error(code, message).at([key]);
    if size.millis() <= 0 || every.millis() <= 0 {
        return Err(error("empty-window", "a window must be longer than zero".to_string()).help("write a length such as 1m"));
    }
    if every > size {
        let message = format!("windows of {size} every {every} leave gaps: rows in the gaps would be lost");
        return Err(error("window-gap", message).help(format!("use `every: {size}` or less")));
    }
    if size.millis() % every.millis() != 0 {
        let times = size.millis() / every.millis();
        let sizes = (Span(times * every.millis()), Span((times + 1) * every.millis()));
        let message = format!("{size} is not a whole multiple of {every}: some rows would be in more windows than others");
        return Err(error("uneven-window", message).help(format!("use a size of {} or {}", sizes.0, sizes.1)));
    }
    let overlapping = size.millis() / every.millis();
    if overlapping > MAX_OVERLAPPING {
        let message = format!("every row would be in {overlapping} windows; at most {MAX_OVERLAPPING} may overlap");
        let every = Span((size.millis() + MAX_OVERLAPPING - 1) / MAX_OVERLAPPING);
        return Err(error("too-many-windows", message).help(format!("use `every: {every}` or more")));
    }
    Ok(Shape::Fixed { size: size.millis(), every: every.millis() })
}

fn sessions(window: &Window, gap: Span) -> Result<Shape, Diagnostic> {
    if gap.millis() <= 0 {
        let problem = Diagnostic::error("empty-window", "the gap of sessions must be longer than zero").at(["session", "gap"]);
        return Err(problem.help("write the pause that ends a session, such as 30m"));
    }
    if window.emit == Emit::OnUpdate {
        let message = "a session has no result before it ends: an earlier row may still move its start or merge it with another one";
        let problem = Diagnostic::error("session-update", message).at(["emit"]);
        return Err(problem.help("remove `emit`; for a result after every row use `unbounded: true` with `expire`"));
    }
    Ok(Shape::Session { gap: gap.millis() })
}

/// The window for all time, if nothing else in the configuration contradicts it.
fn unbounded(window: &Window) -> Result<Windows, Diagnostic> {
    let wrong = |key: &str, message: &str, help: &str| Err(Diagnostic::error("unbounded-window", message).at([key]).help(help));
    if window.tumbling.is_some() || window.hopping.is_some() || window.session.is_some() {
        let message = "an unbounded window has no `tumbling`, `hopping` or `session`";
        return wrong("unbounded", message, "remove one of the two");
    }
    if window.emit == Emit::OnClose {
        let key = "unbounded";
        return wrong(key, "an unbounded window never closes, so `emit: on_close` would emit nothing", "write `emit: on_update`");
    }
    if window.expire.is_some_and(|expire| expire.0.is_some_and(|span| span.millis() < MIN_EXPIRE)) {
        return wrong("expire", "`expire` under a second would drop groups between two rows", "use `expire: 1s` or more");
    }
    if window.lateness.millis() != 0 {
        return wrong("lateness", "an unbounded window has no late rows", "remove `lateness`");
    }
    Ok(Windows::UNBOUNDED)
}
