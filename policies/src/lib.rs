//! The deciding half of tollgate: policies, prices and money.
//!
//! **Invariant:** this crate is pure. It has no clock, no I/O, no async, no HTTP and no randomness
//! of its own: the time and a random draw are facts like any other. The same policy and the same
//! [`Facts`] always give the same [`Verdict`], so a decision that stands in the ledger can be
//! replayed.

mod decision;
mod facts;
mod file;
mod money;
mod policy;
mod price;
mod replay;
mod units;
mod usage;

pub use decision::{
    Decision, LeaveOut, LeftOut, OnShort, Plan, PolicyName, PolicyVersion, Refuse, RefuseReason,
    RuleName, Verdict,
};
pub use facts::{
    BudgetFacts, CallerFacts, FACTS_VERSION, Facts, PromptTokens, RequestFacts, RouteFacts,
    RouteId, RouteState, TimeFacts,
};
pub use file::{FileError, PolicyError, PriceError};
pub use money::{MoneyError, ParseMoneyError, PicoUsd, PicoUsdTotal};
pub use policy::{
    Guarded, KnownRoute, Outcome, Phase, Policy, PolicyWarning, RouteTrace, RuleTried, SHIPPED,
    SignalRead, Trace, TraceVerdict, choose, decide, explain, guard, shipped,
};
pub use price::{
    ComputePrice, DatedPrices, Fees, HoursRates, Power, PriceId, PriceList, PriceName, PriceRow,
    Pricing, RateTable, RoutePrice, RowRates, ServiceTier, Tier, TiersError, TokenPrice,
    TokenRates, Used, WorstCase, undated, write_rows,
};
pub use replay::{Course, NotReplayable, Replayed, Then, Tried, TriedEnd, replay};
pub use usage::{Usage, UsageSource};
