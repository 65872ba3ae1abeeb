//! stub until the real one lands
/// A compiled event pattern.
#[derive(Debug, Clone)]
pub struct Pattern;
/// An error in a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatternError {
    /// where
    pub path: String,
    /// why
    pub message: String,
}
impl Pattern {
    /// Parses.
    pub fn parse(_: &serde_json::Value) -> Result<Self, Vec<PatternError>> {
        Ok(Self)
    }
    /// Matches.
    pub fn matches(&self, _: &serde_json::Value) -> bool {
        true
    }
}
