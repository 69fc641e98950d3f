//! One policy set and one input, to be evaluated again and again: what `benches/evaluate.rs` measures. The way of a request
//! before and after it is `benches/load`'s.

use std::{path::Path, time::Duration};

use regorus::Value;

use super::{
    engine::{Abandoned, PolicySet},
    input::Input,
    load::{self, Purpose},
};
use crate::config::{self, RegoVersion};

/// A policy set as it decides calls, asked the same thing every time.
#[derive(Debug)]
pub struct Measured {
    set: PolicySet,
    input: Input,
}

impl Measured {
    /// Loads a folder under default settings; `input` is JSON.
    ///
    /// # Errors
    /// When the policy is refused or the input is no JSON.
    pub fn load(folder: &Path, input: &str) -> Result<Self, String> {
        let config = config::Policy::of_paths(&[folder.to_owned()], RegoVersion::default());
        let sources = load::read_for(Purpose::Serve, &config).map_err(|error| error.to_string())?;
        let set = PolicySet::compile(sources, &config, &Abandoned::default()).map_err(|error| error.to_string())?;
        let value = Value::from_json_str(input).map_err(|error| error.to_string())?;
        Ok(Self { set, input: Input { value, now_ns: 0 } })
    }

    /// The answer, as the record would show it.
    ///
    /// # Errors
    /// When there is none within a second.
    pub fn evaluate(&self) -> Result<Option<serde_json::Value>, String> {
        let answer = self.set.evaluate(&self.input, Duration::from_secs(1));
        answer.map_err(|failure| format!("{}: {}", failure.reason, failure.detail))
    }
}
