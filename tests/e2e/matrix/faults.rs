//! The faults of the matrix, and what must come of each.

use e2e::standin::{Cut, Fault, Point, Reported, Script};
use std::time::Duration;

/// What a client sees that stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comes {
    /// The first route's answer, charged as it reports.
    First,
    /// The first route's answer, charged by estimate.
    Estimated,
    /// The second route's, after one failed attempt that owes nothing.
    SecondFree,
    /// The second route's, after one failed attempt that may be billed.
    SecondPaid,
    /// A stream that breaks after its first byte, and says so.
    Breaks,
}

/// Where an answer stalls for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stalls {
    Never,
    BeforeTheFirstToken,
    InTheMiddle,
}

/// A fault, where it stalls, and what must come of it streamed and whole.
pub(super) struct Fall {
    pub(super) name: &'static str,
    pub(super) script: fn() -> Script,
    pub(super) stalls: Stalls,
    pub(super) streamed: Comes,
    pub(super) whole: Comes,
}

const SAID: &str = "one two three";

/// A healthy answer.
pub(super) fn said() -> Script {
    Script::says(SAID).using(10, 3)
}

const fn fall(name: &'static str, script: fn() -> Script, streamed: Comes, whole: Comes) -> Fall {
    Fall { name, script, stalls: Stalls::Never, streamed, whole }
}

const fn stall(name: &'static str, script: fn() -> Script, stalls: Stalls, comes: Comes) -> Fall {
    Fall { name, script, stalls, streamed: comes, whole: Comes::SecondPaid }
}

/// The faults, and what must come of each.
pub(super) const FALLS: &[Fall] = {
    use Comes::{Breaks, Estimated, First, SecondFree, SecondPaid};
    use Stalls::{BeforeTheFirstToken, InTheMiddle};
    &[
        fall("429", || said().with(Fault::RateLimited), SecondFree, SecondFree),
        fall("500", || said().with(Fault::Status500), SecondFree, SecondFree),
        fall("503 with retry-after", unavailable, SecondFree, SecondFree),
        fall("reset before", || said().cut(Cut::Reset(Point::Head)), SecondPaid, SecondPaid),
        fall("reset in", || said().cut(Cut::Reset(Point::Piece(0))), SecondPaid, SecondPaid),
        fall("reset after", || said().cut(Cut::Reset(Point::Piece(1))), Breaks, SecondPaid),
        fall(
            "closed in the middle",
            || said().cut(Cut::Close(Point::Piece(2))),
            Breaks,
            SecondPaid,
        ),
        stall(
            "stall before the head",
            || said().cut(Cut::Hang(Point::Head)),
            BeforeTheFirstToken,
            SecondPaid,
        ),
        stall(
            "stall after the head",
            || said().cut(Cut::Hang(Point::Piece(0))),
            BeforeTheFirstToken,
            SecondPaid,
        ),
        stall(
            "stall in the middle",
            || said().cut(Cut::Hang(Point::Piece(2))),
            InTheMiddle,
            Breaks,
        ),
        fall("slow drip", drip, First, First),
        fall("garbage", || said().with(Fault::WrongJson), SecondPaid, SecondPaid),
        fall("a web page", || said().with(Fault::Html), SecondPaid, SecondPaid),
        fall("no usage", || said().reporting(Reported::Never), Estimated, Estimated),
        fall("usage twice", || said().reporting(Reported::Twice), First, First),
        fall("half UTF-8", halves, First, First),
        fall("wrong content type", || said().with(Fault::WrongContentType), SecondPaid, First),
        fall("huge chunk", || said().with(Fault::HugeChunk), SecondPaid, First),
    ]
};

fn unavailable() -> Script {
    said().with(Fault::Status503).header("retry-after", "3")
}

fn drip() -> Script {
    Script { segment_bytes: Some(64), between_segments: Duration::from_millis(1), ..said() }
}

/// Every byte on its own, so that characters come in halves.
fn halves() -> Script {
    Script::says("één twée ☂").using(10, 3).with(Fault::Split)
}
