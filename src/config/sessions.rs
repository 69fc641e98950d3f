//! `sessions`: how long behaviour is remembered, and where.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Span;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sessions {
    /// A session ends when nothing has come in it for so long.
    pub idle: Span,
    /// Longest life of a session.
    pub absolute: Span,
    /// How long labels stay that a policy's result adds, and those of actions that say nothing else. For so long after a
    /// start without `snapshot`, sessions are not complete.
    pub label_ttl: Span,
    /// Most sessions, and most principals.
    pub max: usize,
    /// File that sessions survive a restart in. Labels and the counts of path-relevant actions are in it at once, so that a
    /// crash loses none; all else is written each `save`, and at the end. Its folder has to exist, and be ours alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<PathBuf>,
    /// Sessions in a task end with it.
    pub end_with_task: bool,
    /// How often all sessions are written to `snapshot`.
    pub save: Span,
    /// This process is the only one that decides for the callers of its `gateway` listeners, so that sessions are complete.
    pub sole: bool,
    /// What becomes of actions whose path may be missing something.
    pub incomplete: Incomplete,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            idle: Span::millis(15 * 60 * 1000),
            absolute: Span::millis(24 * 3600 * 1000),
            label_ttl: Span::millis(3600 * 1000),
            max: 1_000_000,
            snapshot: None,
            end_with_task: true,
            save: Span::millis(60 * 1000),
            sole: false,
            incomplete: Incomplete::Deny,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Incomplete {
    /// What is forbidden after a label is denied, and a catalogue with such actions is refused at load where no listener
    /// sees whole sessions.
    Deny,
    /// Go by what is known.
    Allow,
}
