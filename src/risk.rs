//! What is noticed about a caller, weighed: signals with weights that add up and decay, a level, and the reasons. Risk
//! may raise a tier; it grants nothing.

use crate::verdict::Level;

/// How risky a caller is.
#[derive(Debug, Clone, PartialEq)]
pub struct Risk {
    pub score: u32,
    pub level: Level,
    /// One for each signal that counted, the weightiest first: `credential_reuse +40`.
    pub reasons: Vec<String>,
}
