//! OPA as the oracle: its own test cases through our load path (`conformance`), and random policies and inputs that our
//! engine room and the real `opa` both answer (`differential`). Only tests are here; what they find wrong is mended
//! where it stands.

mod conformance;
mod differential;

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::load::{Module, Sources};
use crate::config::{self, RegoVersion};

/// What `tests/peers.sh` installs as `relative`. None, with a loud word, where nothing was asked to be compared by the
/// variable `wish`.
fn peer(relative: &str, wish: &str) -> Option<PathBuf> {
    if std::env::var_os(wish).is_none() {
        eprintln!("SKIPPED: comparing with OPA takes a minute; set {wish}");
        return None;
    }
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join(".peers").join(relative);
    assert!(found.exists(), "{relative} is not installed: run `bash tests/peers.sh opa`");
    Some(found)
}

/// Modules of these names and texts, and `data`, as `load` would hand them on.
fn sources(modules: impl IntoIterator<Item = (String, String)>, data: Json) -> Sources {
    let modules = modules.into_iter().map(|(name, text)| Module { name, text, roots: None }).collect();
    Sources { modules, data, ..Sources::empty("oracle") }
}

fn config(decision: &str, rego: RegoVersion) -> config::Policy {
    config::Policy { decision: decision.to_owned(), ..config::Policy::of_paths(&[], rego) }
}

/// Text that is the same for equal values: numbers count by their value.
fn canonical(value: &Json) -> String {
    match value {
        Json::Number(number) => {
            let text = number.to_string();
            match (text.parse::<i128>(), text.parse::<f64>()) {
                (Ok(whole), _) => whole.to_string(),
                (_, Ok(float)) if float.fract() == 0.0 && float.abs() < 1e30 => format!("{float:.0}"),
                (_, Ok(float)) => float.to_string(),
                _ => text,
            }
        }
        Json::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        Json::Object(fields) => {
            let field = |(key, value): (&String, &Json)| format!("{}:{}", Json::from(key.as_str()), canonical(value));
            let mut fields: Vec<_> = fields.iter().map(field).collect();
            fields.sort();
            format!("{{{}}}", fields.join(","))
        }
        scalar => scalar.to_string(),
    }
}
