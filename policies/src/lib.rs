//! The deciding half of tollgate: policies, prices and money.
//!
//! **Invariant:** this crate is pure. It has no clock, no I/O, no async, no HTTP and no randomness
//! of its own: the time and a random draw are facts like any other. The same policy and the same
//! [`Facts`] always give the same [`Verdict`], so a decision that stands in the ledger can be
//! replayed.

mod decision;
mod facts;
mod money;
mod price;
mod usage;

pub use decision::{
    Decision, LeaveOut, LeftOut, OnShort, Plan, PolicyName, PolicyVersion, Refuse, RuleName,
    Verdict,
};
pub use facts::{
    BudgetFacts, CallerFacts, FACTS_VERSION, Facts, RequestFacts, RouteFacts, RouteId, RouteState,
    TimeFacts,
};
pub use money::{MoneyError, ParseMoneyError, PicoUsd, PicoUsdTotal};
pub use price::{ComputePrice, PriceId, RoutePrice, Tier, TokenPrice, TokenRates, WorstCase};
pub use usage::{Usage, UsageSource};
