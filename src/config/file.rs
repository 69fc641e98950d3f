//! Reading the configuration file, and saying where a mistake stands: file, line, key and remedy.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{Config, check::check, node::Node};

/// Why a configuration was refused. Prints one line for each problem.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}", Listing(path, problems))]
    Invalid { path: PathBuf, problems: Vec<Problem> },
}

/// One mistake in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1; 0 when unknown.
    pub line: u64,
    /// The key concerned, `listeners[0].address`; empty for a syntax error.
    pub key: String,
    /// What is wrong, and what to write instead.
    pub text: String,
}

struct Listing<'a>(&'a Path, &'a [Problem]);

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Problem { line, key, text }) in self.1.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{}:{line}: ", self.0.display())?;
            if !key.is_empty() {
                write!(f, "`{key}`: ")?;
            }
            f.write_str(text)?;
        }
        Ok(())
    }
}

/// Reads, checks and returns the configuration in `path`; relative paths in it are relative to its folder.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let mut config = parse(path, &text)?;
    config.resolve_paths(path.parent().unwrap_or(Path::new("")));
    Ok(config)
}

/// Parses and checks `text`; `path` is only for messages.
pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    let invalid = |problems| ConfigError::Invalid { path: path.to_owned(), problems };
    let config = deserialize(text).map_err(|problem| invalid(vec![problem]))?;
    let lines = Node::parse(text).map_err(|error| invalid(vec![problem(&error, String::new())]))?;
    let problems: Vec<Problem> =
        check(&config).into_iter().map(|(key, text)| Problem { line: lines.line_of(&key), key, text }).collect();
    if problems.is_empty() { Ok(config) } else { Err(invalid(problems)) }
}

fn deserialize(text: &str) -> Result<Config, Problem> {
    let mut track = serde_path_to_error::Track::new();
    let result = serde_saphyr::with_deserializer_from_str(text, |deserializer| {
        Config::deserialize(serde_path_to_error::Deserializer::new(deserializer, &mut track))
    });
    result.map_err(|error| {
        let path = track.path().to_string();
        problem(&error, if path == "." { String::new() } else { path })
    })
}

fn problem(error: &serde_saphyr::Error, key: String) -> Problem {
    let error = error.without_snippet();
    let line = error.location().map_or(0, |location| location.line());
    let text = error.to_string();
    // The library puts the position into the text too; ours comes first, once.
    let text = text.split(" at line ").next().unwrap_or(&text).lines().next().unwrap_or_default();
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let text =
        text.strip_prefix(&format!("line {line} column ")).and_then(|rest| rest.split_once(": ")).map_or(text, |(_, rest)| rest);
    Problem { line, key, text: format!("{text}; `doorward config schema` lists every key and its form") }
}

/// What is read from the environment, once: `DOORWARD_POD_*` from the Kubernetes downward API, and where the SPIFFE
/// Workload API is. `RUST_LOG` and `OTEL_*` are read by the libraries that define them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    pub pod: Option<String>,
    pub namespace: Option<String>,
    pub node: Option<String>,
    /// `SPIFFE_ENDPOINT_SOCKET`, for a configuration without `trust.workload_api`.
    pub workload_api: Option<String>,
}

impl Environment {
    pub fn read() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            pod: variable("DOORWARD_POD_NAME"),
            namespace: variable("DOORWARD_POD_NAMESPACE"),
            node: variable("DOORWARD_POD_NODE"),
            workload_api: variable("SPIFFE_ENDPOINT_SOCKET"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str =
        "version: 1\nlisteners:\n- address: unix:///tmp/a.sock\n  peer: {trust: certificate}\npolicy:\n  bundles:\n  - path: p\n";

    fn problems(text: &str) -> Vec<Problem> {
        match parse(Path::new("c.yaml"), text) {
            Err(ConfigError::Invalid { problems, .. }) => problems,
            other => panic!("expected problems, got {other:?}"),
        }
    }

    #[test]
    fn the_minimal_file_is_enough() {
        let config = parse(Path::new("c.yaml"), MINIMAL).unwrap();
        assert_eq!(config.policy.decision, "envoy/authz/allow");
        assert_eq!(config.operations.address.port(), 9919);
    }

    #[test]
    fn a_mistake_is_shown_with_line_key_and_remedy() {
        for (from, to, line, key) in [
            ("version: 1", "version: 2", 1, "version"),
            ("trust: certificate", "trust: nobody", 4, "listeners[0].peer.trust"),
            ("unix:///tmp/a.sock", "/tmp/a.sock", 3, "listeners[0].address"),
            ("bundles:", "bundels:", 6, "policy.bundels"),
            ("- path: p", "[", 7, "policy"),
        ] {
            let found = problems(&MINIMAL.replace(from, to));
            let [problem] = found.as_slice() else { panic!("{found:?}") };
            assert_eq!((problem.line, problem.key.as_str()), (line, key), "{problem:?}");
            assert!(problem.text.contains("config schema"), "{problem:?}");
        }
    }

    #[test]
    fn what_spans_several_keys_has_its_line_too() {
        let found = problems(&MINIMAL.replace("unix:///tmp/a.sock", "tcp://127.0.0.1:9191"));
        let [problem] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((problem.line, problem.key.as_str()), (3, "listeners[0].address"));
        assert!(problem.text.contains("insecure: true"), "{problem:?}");
    }

    #[test]
    fn duplicate_keys_are_refused() {
        assert_eq!(problems(&format!("{MINIMAL}mode: observe\nmode: enforce\n")).len(), 1);
    }
}
