//! tollgate's trunk: from a socket to a ledger entry.
//!
//! Start reading at `serve.rs`: the life of a request stands there, one line per step, and each
//! step's name tells which module to open.

pub mod admin;
pub mod admission;
pub mod backup;
pub mod cache;
pub mod caller;
pub mod causes;
pub mod cli;
pub mod clock;
pub mod config;
pub(crate) mod descriptors;
pub mod draw;
pub mod execute;
pub mod extras;
pub mod guard;
pub mod idle;
pub(crate) mod largest;
pub mod ledger;
pub mod listen;
pub(crate) mod makers;
pub(crate) mod openapi;
pub(crate) mod paths;
pub mod policy_watch;
pub mod price_import;
pub mod providers;
pub mod refusal;
pub mod relay;
pub mod routes;
pub mod serve;
pub(crate) mod share;
pub mod start;
pub mod store;
pub mod telemetry;
pub mod timeline;
pub mod tls;
pub mod upkeep;
pub mod webhook;
pub mod wire;
