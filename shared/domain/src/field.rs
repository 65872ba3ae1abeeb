//! What is wrong with one field of what somebody sent.

use serde::Serialize;

/// A field and why it is refused, as in a problem's `errors` (contract.md, Management API).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// The field's path: `target`, `filter.data.total[0]`.
    pub field: String,
    /// Lower case, without a full stop; says what to do.
    pub message: String,
}

impl FieldError {
    /// An error of `field`.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` {}", self.field, self.message)
    }
}
