//! `state`: where revocations, and whatever else operators decide, are kept.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Config;

/// Where the control state is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum State {
    /// In this process, for one machine.
    Memory(MemoryState),
}

impl Default for State {
    fn default() -> Self {
        Self::Memory(MemoryState::default())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryState {
    /// The control log: a file that revocations survive a restart in, each signed and chained to the one before. Its folder
    /// has to exist, and be ours alone. Without it nothing can be revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Take revocations without a file, although the next restart forgets them.
    pub volatile: bool,
}

impl State {
    pub(super) fn path_mut(&mut self) -> Option<&mut PathBuf> {
        let Self::Memory(MemoryState { file, .. }) = self;
        file.as_mut()
    }
}

/// What is wrong with it, as `(key, text)`.
pub(super) fn check(config: &Config, found: &mut Vec<(String, String)>) {
    let State::Memory(MemoryState { file, volatile }) = &config.state;
    if file.is_some() && *volatile {
        let text = "`volatile: true` is for a doorward without a `file`; remove one of the two";
        found.push(("state.memory.volatile".to_owned(), text.to_owned()));
    }
    if file.is_none() && config.control.as_ref().is_some_and(|control| control.signing_key.is_some()) {
        let text = "there is no control log to sign; set `state.memory.file`, or remove the key";
        found.push(("control.signing_key".to_owned(), text.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_in_a_file_or_forgotten_and_a_key_has_a_log() {
        let base = "version: 1\nlisteners: [{}]\npolicy: {bundles: [{path: p}]}\n";
        for (text, wrong) in [
            ("", None),
            ("state: {memory: {file: a}}", None),
            ("state: {memory: {volatile: true}}", None),
            ("state: {memory: {file: a}}\ncontrol: {signing_key: k}", None),
            ("state: {memory: {file: a, volatile: true}}", Some("state.memory.volatile")),
            ("control: {signing_key: k}", Some("control.signing_key")),
            ("state: {memory: {volatile: true}}\ncontrol: {signing_key: k}", Some("control.signing_key")),
        ] {
            let config: Config = serde_saphyr::from_str(&format!("{base}{text}")).unwrap();
            let mut found = Vec::new();
            check(&config, &mut found);
            assert_eq!(found.first().map(|(key, _)| key.as_str()), wrong, "{text}");
        }
        for text in ["state: {}", "state: {redis: {}}", "state: {memory: {path: a}}"] {
            assert!(serde_saphyr::from_str::<Config>(&format!("{base}{text}")).is_err(), "{text}");
        }
    }
}
