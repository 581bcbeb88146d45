//! placeholder
use std::sync::Arc;
/// r
pub fn router(_: Arc<crate::serve::Gateway>) -> axum::Router<Arc<crate::serve::Gateway>> {
    axum::Router::new()
}
/// a
pub fn authorize_metrics(
    _: &crate::serve::Gateway,
    _: &http::HeaderMap,
) -> Result<(), crate::refusal::Refusal> {
    Ok(())
}
