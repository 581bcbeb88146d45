//! The ledger's promises, kept in a temporary directory: each test reads as one of them.

mod harness;
mod hot_path;
