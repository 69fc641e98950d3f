//! Reading what Envoy was given: a bootstrap as YAML or JSON, the answer of `/config_dump`, or a piece to paste.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::config::{Node, Value};

/// A file, read.
#[derive(Debug)]
pub struct Document {
    pub(super) root: Node,
    text: String,
}

/// Why a file is no Envoy configuration.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{}` is no YAML: {text}", path.display())]
    Yaml { path: PathBuf, text: String },
    #[error("`{}` is no JSON", path.display())]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "`{}` has no `static_resources`, `configs` or `http_filters`; give Envoy's bootstrap or the answer of its admin's `/config_dump`",
        path.display()
    )]
    Shape { path: PathBuf },
}

impl Document {
    pub fn load(path: &Path) -> Result<Self, DocumentError> {
        let text = fs::read_to_string(path).map_err(|source| DocumentError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// `path` is only for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self, DocumentError> {
        // JSON is read as what it is: a config dump may be large, and places in it are told by path.
        let root = if text.trim_start().starts_with('{') {
            let json = serde_json::from_str(text).map_err(|source| DocumentError::Json { path: path.to_owned(), source })?;
            from_json(json)
        } else {
            Node::parse(text).map_err(|error| {
                let text = error.without_snippet().to_string();
                DocumentError::Yaml { path: path.to_owned(), text: text.lines().next().unwrap_or_default().to_owned() }
            })?
        };
        let known = ["static_resources", "dynamic_resources", "configs", "http_filters"];
        if known.iter().any(|key| root.get(key).is_some()) {
            Ok(Self { root, text: text.to_owned() })
        } else {
            Err(DocumentError::Shape { path: path.to_owned() })
        }
    }

    /// The text of a line, from 1.
    pub fn line(&self, number: u64) -> Option<&str> {
        self.text.lines().nth(usize::try_from(number).ok()?.checked_sub(1)?)
    }
}

fn from_json(json: serde_json::Value) -> Node {
    use serde_json::Value as Json;
    let value = match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Scalar(value.to_string()),
        Json::Number(value) => Value::Scalar(value.to_string()),
        Json::String(value) => Value::Scalar(value),
        Json::Array(items) => Value::List(items.into_iter().map(from_json).collect()),
        Json::Object(entries) => Value::Map(entries.into_iter().map(|(key, value)| (key, from_json(value))).collect()),
    };
    Node { line: 0, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_envoy_configuration_is_said_so() {
        for (text, said) in [
            ("a: [", "no YAML"),
            ("{\"a\": ", "no JSON"),
            ("version: 1", "no `static_resources`"),
            ("- 1", "no `static_resources`"),
            ("static_resources: {}\nstatic_resources: {}\n", "no YAML"),
        ] {
            let error = Document::parse(Path::new("e.yaml"), text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
        assert!(Document::load(Path::new("/nowhere/e.yaml")).unwrap_err().to_string().contains("cannot read"));
    }
}
