//! The promises of tollgate, tested from outside over real sockets: one binary, a module per
//! promise. `harness` lets them read as sentences.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and says what it could not look at"
)]

mod harness;

mod admin;
mod answers;
mod asking;
mod behind_another;
mod budgets;
mod building;
mod caching;
mod charging;
mod choosing;
mod command_line;
mod copies;
mod corpus;
mod cost_limit;
mod crash;
mod disk;
mod doctor;
mod document;
mod dry_run;
mod errors;
mod fallback;
mod families;
mod hedging;
mod hello;
mod isolated;
mod leaving;
mod limits;
mod lining_up;
mod malformed;
mod matrix;
mod models;
mod odd_shapes;
mod passthrough;
mod private;
mod querying;
mod reload;
mod replaying;
mod secrets;
mod sharing;
mod silence;
mod slow_clients;
mod sockets;
mod speculation;
mod standin;
mod stopping;
mod strict;
mod surface;
mod surviving;
mod telling_costs;
mod tidy;
mod tls;
mod webhooks;
