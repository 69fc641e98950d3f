//! Where our own API listens, and for whom.

use std::{collections::BTreeSet, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Address, Config, FileMode};

/// Our own gRPC API, for operators on this host: what `doorward session`, `revoke`, `tail` and `explain` ask. Off unless this
/// section is there; `control: {}` turns it on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// `unix:///path` or `unix://@abstract-name`.
    pub address: Address,
    /// Permission bits of the socket file.
    pub socket_mode: FileMode,
    /// User ids besides our own whose processes may ask. What they may do is `data.guard.control.allow`'s to say. Who may
    /// call a listener for Envoy may not call here by that.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub uids: BTreeSet<u32>,
    /// File with the Ed25519 key that signs the control log, as PEM (`openssl genpkey -algorithm ed25519`). Without it a key
    /// is made beside `state.memory.file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_key: Option<PathBuf>,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            address: Address::Unix("/run/doorward/control/control.sock".into()),
            socket_mode: FileMode::default(),
            uids: BTreeSet::new(),
            signing_key: None,
        }
    }
}

/// What is wrong with it, as `(key, text)`.
pub(super) fn check(part: &Control, config: &Config, found: &mut Vec<(String, String)>) {
    let mut report = |text: &str| found.push(("control.address".to_owned(), text.to_owned()));
    if matches!(part.address, Address::Tcp(_)) {
        report("callers are known by their user id, and TCP tells none; write `unix:///run/doorward/control/control.sock`");
    }
    if config.listeners.iter().any(|listener| listener.address == part.address) {
        report("Envoy is listened for here too; whoever may ask for decisions must not call this API, so choose another path");
    }
}
