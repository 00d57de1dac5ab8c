//! The windows of a step as configured, checked.

use chrono_tz::{TZ_VARIANTS, Tz};
use operator_core::diagnostic::closest;
use operator_core::{Diagnostic, Interval, Millis};

use crate::bounds::{Shape, Windows};
use crate::calendar::{Calendar, DAY, MONDAY, Period};
use crate::spec::{Emit, Length, Window};

/// More windows at a time are a configuration error: every row would be added to each.
pub const MAX_OVERLAPPING: i64 = 1_000;
/// The least `expire`.
const MIN_EXPIRE: Millis = 1_000;

/// The windows that `window` asks for.
pub fn windows(window: &Window) -> Result<Windows, Diagnostic> {
    if window.unbounded {
        return unbounded(window);
    }
    if window.emit == Emit::Every(Interval(0)) {
        let problem = Diagnostic::error("empty-window", "results every 0s would never end").at(["emit", "every"]);
        return Err(problem.help("write how often results come, such as `every: 10s`; `emit: on_update` is after every row"));
    }
    if window.expire.is_some() {
        let problem = Diagnostic::error("unbounded-window", "`expire` is only for unbounded windows");
        return Err(problem.at(["expire"]).help("remove `expire`: the state of other windows ends when they close"));
    }
    let lateness = window.lateness.millis();
    let shape = match (window.tumbling, window.hopping, window.session) {
        (Some(length), None, None) => tumbling(window, length)?,
        (None, Some(hopping), None) => fixed("hopping", hopping.size, hopping.every, offset(window, hopping.every)?)?,
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
    if let (Some(_), Shape::Fixed { .. } | Shape::Session { .. }, None) = (&window.zone, shape, window.tumbling) {
        return Err(calendar("zone", "`zone` is only for tumbling windows", "remove `zone`"));
    }
    if window.offset.is_some() && window.session.is_some() {
        return Err(calendar("offset", "sessions begin with their first row, so `offset` has no effect", "remove `offset`"));
    }
    Ok(Windows { shape, lateness })
}

fn calendar(key: &str, message: impl Into<String>, help: impl Into<String>) -> Diagnostic {
    Diagnostic::error("calendar-window", message).at([key]).help(help)
}

/// Windows of a fixed length, or of a calendar.
fn tumbling(window: &Window, length: Length) -> Result<Shape, Diagnostic> {
    let zone = window.zone.as_deref().map(zone).transpose()?.unwrap_or(Tz::UTC);
    let months = |count: i64| match count {
        1 | 2 | 3 | 4 | 6 => Ok(Period::Months { count }),
        _ if count > 0 && count % 12 == 0 => Ok(Period::Months { count }),
        0 => {
            Err(Diagnostic::error("empty-window", "a window must be longer than zero").at(["tumbling"]).help("write a length such as 1mo"))
        }
        _ => Err(calendar(
            "tumbling",
            format!("windows of {length} would begin in another month each year"),
            "write 1mo, 2mo, 3mo, 4mo, 6mo or 1y",
        )),
    };
    let (period, least) = match length {
        Length::Interval(span) if zone == Tz::UTC => return fixed("tumbling", span, span, offset(window, span)?),
        Length::Interval(span) if span.millis() > 0 && span.millis() % DAY == 0 => {
            (Period::Days { count: span.millis() / DAY, first: 0 }, span)
        }
        Length::Interval(span) => {
            let message = format!("`zone` is for windows of whole days, and {span} is not one");
            let help = "remove `zone`: hours begin at the same time everywhere; where they don't, such as in India, write `offset: 30m`";
            return Err(calendar("zone", message, help));
        }
        Length::Weeks(count) => {
            let span = Interval(7 * DAY * count);
            if zone == Tz::UTC {
                // As numbers, which are faster: the first Monday is the fifth day of 1970.
                let offset = (offset(window, span)? + MONDAY * DAY).rem_euclid(span.millis().max(1));
                return fixed("tumbling", span, span, offset);
            }
            (Period::Days { count: 7 * count, first: MONDAY }, span)
        }
        Length::Months(count) => (months(count)?, Interval(28 * DAY * count)),
        Length::Years(count) => (months(12 * count)?, Interval(365 * DAY * count)),
    };
    if least.millis() == 0 {
        return Err(Diagnostic::error("empty-window", "a window must be longer than zero")
            .at(["tumbling"])
            .help("write a length such as 1w"));
    }
    Ok(Shape::Calendar(Calendar { zone, period, offset: offset(window, least)? }))
}

/// `offset`, which must be less than the time between two windows.
fn offset(window: &Window, every: Interval) -> Result<Millis, Diagnostic> {
    let offset = window.offset.unwrap_or_default();
    if offset != Interval(0) && offset >= every {
        let message = format!("an offset of {offset} is not less than {every}, after which the next window begins");
        return Err(calendar("offset", message, "write how long after its usual start a window begins, such as `offset: 6h` for days"));
    }
    Ok(offset.millis())
}

fn zone(name: &str) -> Result<Tz, Diagnostic> {
    name.parse().map_err(|_| {
        let known = || TZ_VARIANTS.iter().map(|zone| zone.name());
        let city = |zone: &str| zone.rsplit('/').next().is_some_and(|city| city.eq_ignore_ascii_case(name));
        let meant = known().find(|zone| zone.eq_ignore_ascii_case(name) || city(zone)).or_else(|| closest(name, known()));
        let meant = meant.map_or_else(String::new, |zone| format!("did you mean `{zone}`? "));
        let help = format!("{meant}Zones have names of the tz database, such as `Europe/Berlin` or `UTC`");
        Diagnostic::error("unknown-zone", format!("there is no time zone `{name}`")).at(["zone"]).help(help)
    })
}

fn fixed(key: &str, size: Interval, every: Interval, offset: Millis) -> Result<Shape, Diagnostic> {
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
        let sizes = (Interval(times * every.millis()), Interval((times + 1) * every.millis()));
        let message = format!("{size} is not a whole multiple of {every}: some rows would be in more windows than others");
        return Err(error("uneven-window", message).help(format!("use a size of {} or {}", sizes.0, sizes.1)));
    }
    let overlapping = size.millis() / every.millis();
    if overlapping > MAX_OVERLAPPING {
        let message = format!("every row would be in {overlapping} windows; at most {MAX_OVERLAPPING} may overlap");
        let every = Interval((size.millis() + MAX_OVERLAPPING - 1) / MAX_OVERLAPPING);
        return Err(error("too-many-windows", message).help(format!("use `every: {every}` or more")));
    }
    Ok(Shape::Fixed { size: size.millis(), every: every.millis(), offset })
}

fn sessions(window: &Window, gap: Interval) -> Result<Shape, Diagnostic> {
    if gap.millis() <= 0 {
        let problem = Diagnostic::error("empty-window", "the gap of sessions must be longer than zero").at(["session", "gap"]);
        return Err(problem.help("write the pause that ends a session, such as 30m"));
    }
    if window.emit != Emit::OnClose {
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
    if let Some(key) = window.zone.as_ref().map(|_| "zone").or(window.offset.map(|_| "offset")) {
        return wrong(key, "an unbounded window has no start, so `zone` and `offset` have no effect", "remove it");
    }
    if let Emit::Every(_) = window.emit {
        return wrong("emit", "an unbounded window emits after every row", "write `emit: on_update`");
    }
    if window.emit == Emit::OnClose {
        let help = "write `emit: on_update`, or `emit: changes` if its input is a stream of changes";
        return wrong("unbounded", "an unbounded window never closes, so `emit: on_close` would emit nothing", help);
    }
    if window.expire.is_some_and(|expire| expire.0.is_some_and(|span| span.millis() < MIN_EXPIRE)) {
        return wrong("expire", "`expire` under a second would drop groups between two rows", "use `expire: 1s` or more");
    }
    if window.lateness.millis() != 0 {
        return wrong("lateness", "an unbounded window has no late rows", "remove `lateness`");
    }
    Ok(Windows::UNBOUNDED)
}
