//! Metrics and logs for operators.
//!
//! **Invariants:** no secret and no prompt is in either; the values of a metric's labels are
//! bounded: routes come from the configuration, the rest from closed sets, never from a request.

mod logs;
mod metrics;

pub use logs::{LogFormat, start_logging, start_quiet_logging};
pub use metrics::{CONTENT_TYPE, Metrics};
