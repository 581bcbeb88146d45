//! Per-provider request and stream conversion. Only this module and `wire/` know anybody's JSON.

pub(crate) mod anthropic;
mod azure;
mod blame;
mod call_ids;
mod conversation;
mod costs;
pub(crate) mod gemini;
mod kinds;
mod limits;
pub mod openai;
mod probe;
mod reading;
mod recalls;
mod reshape;
mod unthinking;

pub(crate) use blame::{Blame, blame, moderated, refused, status_within};
pub(crate) use call_ids::{CallIds, Told};
pub(crate) use costs::{Charged, charged};
pub(crate) use kinds::Auth;
pub use kinds::{Format, KIND_NAMES, Kind};
pub use limits::RateSeen;
pub(crate) use probe::{lists_models, probe};
pub(crate) use reading::{Ended, Read};
pub(crate) use recalls::Recalls;
pub(crate) use reshape::{Shape, reshape};
pub(crate) use unthinking::UNTAKEN;
