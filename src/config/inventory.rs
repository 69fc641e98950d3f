//! `inventory`: how many principals are remembered, and where.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Span;

/// What `doorward inventory` tells of. Only kept where there is `control`, as nobody else asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Inventory {
    /// Most principals. A full table forgets who was not seen for long, and never one of the registry for one that is not in
    /// it.
    pub max: usize,
    /// File that it survives a restart in. Its folder has to exist. Without it, all is forgotten at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// How often it is written to `file`.
    pub save: Span,
}

impl Default for Inventory {
    fn default() -> Self {
        Self { max: 1_000_000, file: None, save: Span::millis(300_000) }
    }
}
