//! The policies that tollgate ships, which people start from.

/// Name and text of every shipped policy; the first is the default.
pub const SHIPPED: [(&str, &str); 4] = [
    ("edge-first", include_str!("../../shipped/edge-first.toml")),
    ("cloud-only", include_str!("../../shipped/cloud-only.toml")),
    ("cheapest", include_str!("../../shipped/cheapest.toml")),
    ("private-stays-home", include_str!("../../shipped/private-stays-home.toml")),
];

/// The text of a shipped policy.
#[must_use]
pub fn shipped(name: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
