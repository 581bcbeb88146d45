//! The ledger's promises, kept in a temporary directory: each test reads as one of them.

mod backup;
mod budgets;
mod crashes;
mod damage;
mod disk;
mod ends;
mod extension;
mod harness;
mod hot_path;
mod interleaved;
mod migration;
mod notices;
mod power;
mod queries;
mod replay;
mod rerate;
mod retention;
mod room;
mod sessions;
mod zones;
