//! What travels inside the binary: the commented `tollgate.toml` and the shipped policies, so that
//! the binary alone is enough to start.

/// The commented configuration: the file at the top of the repository, and what `tollgate init`
/// writes.
pub const TOLLGATE_TOML: &str = include_str!("../../../tollgate.toml");

/// The policy of a configuration that names none.
pub const DEFAULT_POLICY: &str = "edge-first";

/// The text of a shipped policy.
#[must_use]
pub fn policy(name: &str) -> Option<&'static str> {
    policies::shipped(name)
}

/// The names of the shipped policies.
pub fn policy_names() -> impl Iterator<Item = &'static str> {
    policies::SHIPPED.iter().map(|(name, _)| *name)
}
