//! placeholder
/// M
#[derive(Debug)]
pub struct Metrics;
/// CT
pub const CONTENT_TYPE: &str = "text/plain";
impl Metrics {
    /// n
    #[must_use]
    pub fn new() -> Self {
        Self
    }
    /// r
    pub fn refused(&self, _: &str) {}
    /// r
    pub fn render(&self, _: &crate::serve::Gateway) -> String {
        String::new()
    }
}
