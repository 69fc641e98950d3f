//! A configuration of OPA with opa-envoy-plugin, translated. Every setting is taken out of it once: what is left over at
//! the end has no counterpart and is named, so nothing is passed over in silence. `policy` translates bundles, keys and
//! the plugin, `log` the decision log and tracing, `service` how servers are reached; `missing` has the reasons.

mod log;
mod missing;
mod policy;
mod service;

use serde::Serialize;
use serde_json::{Map, Value};

use self::service::Services;

/// Why nothing can be translated.
#[derive(Debug, thiserror::Error)]
pub enum OpaError {
    #[error("this is neither YAML nor JSON: {0}")]
    Syntax(String),
    #[error("the file holds no settings; name a configuration of OPA, as `opa run --config-file` reads it")]
    NoSettings,
}

/// What a configuration comes to.
#[derive(Debug, Clone, Serialize)]
pub struct Translation {
    /// A `doorward.yaml`, with comments.
    pub config: String,
    pub findings: Vec<Finding>,
}

impl Translation {
    /// Whether it does all that OPA's does, without anything left to do.
    pub fn is_whole(&self) -> bool {
        self.findings.iter().all(|finding| finding.kind == Kind::Note)
    }
}

/// What has to be known of one setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where it stands in OPA's configuration, `services.main.credentials.oauth2`.
    pub setting: String,
    pub kind: Kind,
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It has no counterpart.
    Missing,
    /// It is translated, and something is left to do by hand.
    Manual,
    /// It is translated, or needs no translation; this is only to be known.
    Note,
}

/// Translates OPA's configuration, YAML or JSON.
pub fn translate(text: &str) -> Result<Translation, OpaError> {
    let value: Value = serde_saphyr::from_str(text).map_err(|error| OpaError::Syntax(error.without_snippet().to_string()))?;
    let Value::Object(members) = value else { return Err(OpaError::NoSettings) };
    if members.is_empty() {
        return Err(OpaError::NoSettings);
    }
    let mut findings = Findings::default();
    find_variables("", &Value::Object(members.clone()), &mut findings);
    let mut root = Section { path: String::new(), members };
    let mut services = Services::take(&mut root, &mut findings);
    let mut yaml = Yaml::default();
    yaml.comment(
        0,
        "Translated from a configuration of OPA by `doorward config from-opa`. `doorward config check` says whether it",
    );
    yaml.comment(0, "can be used, `doorward config schema` describes every key.");
    yaml.line(0, "version: 1");
    policy::plugin(&mut root, &mut yaml, &mut findings);
    policy::bundles(&mut root, &mut services, &mut yaml, &mut findings);
    log::decisions(&mut root, &mut services, &mut yaml, &mut findings);
    log::tracing(&mut root, &mut yaml, &mut findings);
    services.finish(&mut findings);
    root.finish(&mut findings);
    let mut findings = findings.0;
    findings.sort_by(|a, b| (a.kind, &a.setting).cmp(&(b.kind, &b.setting)));
    Ok(Translation { config: yaml.0, findings })
}

/// OPA puts the environment into the text before it reads it.
fn find_variables(path: &str, value: &Value, findings: &mut Findings) {
    match value {
        Value::String(text) if text.contains("${") => {
            findings.manual(path, "OPA puts variables of the environment here, which Doorward does not", "write the value out");
        }
        Value::Object(members) => members.iter().for_each(|(key, value)| find_variables(&joined(path, key), value, findings)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, value)| find_variables(&joined(path, &at.to_string()), value, findings));
        }
        _ => {}
    }
}

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, kind: Kind, setting: &str, reason: &str, remedy: &str) {
        self.0.push(Finding { setting: setting.to_owned(), kind, reason: reason.to_owned(), remedy: remedy.to_owned() });
    }

    fn missing(&mut self, setting: &str, reason: &str, remedy: &str) {
        self.add(Kind::Missing, setting, reason, remedy);
    }

    fn manual(&mut self, setting: &str, reason: &str, remedy: &str) {
        self.add(Kind::Manual, setting, reason, remedy);
    }

    fn note(&mut self, setting: &str, reason: &str, remedy: &str) {
        self.add(Kind::Note, setting, reason, remedy);
    }
}

/// An object of OPA's configuration, from which settings are taken.
struct Section {
    path: String,
    members: Map<String, Value>,
}

impl Section {
    /// Where a member stands.
    fn at(&self, key: &str) -> String {
        joined(&self.path, key)
    }

    /// Takes a member if it has the right form; otherwise it stays, to be named at the end.
    fn take<T>(&mut self, key: &str, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let taken = read(self.members.get(key)?)?;
        self.members.remove(key);
        Some(taken)
    }

    fn text(&mut self, key: &str) -> Option<String> {
        self.take(key, |value| value.as_str().map(str::to_owned))
    }

    fn flag(&mut self, key: &str) -> Option<bool> {
        self.take(key, Value::as_bool)
    }

    /// A whole number above zero; OPA takes texts for them too.
    fn count(&mut self, key: &str) -> Option<u64> {
        self.take(key, |value| value.as_u64().or_else(|| value.as_str()?.parse().ok()).filter(|count| *count > 0))
    }

    fn number(&mut self, key: &str) -> Option<f64> {
        self.take(key, Value::as_f64)
    }

    fn texts(&mut self, key: &str) -> Option<Vec<String>> {
        self.take(key, |value| value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect())
    }

    fn section(&mut self, key: &str) -> Option<Self> {
        let members = self.take(key, |value| value.as_object().cloned())?;
        Some(Self { path: self.at(key), members })
    }

    /// The objects that are its members, by name.
    fn sections(&mut self, key: &str) -> Vec<(String, Self)> {
        let Some(mut all) = self.section(key) else { return Vec::new() };
        let names: Vec<_> = all.members.keys().cloned().collect();
        let found = names.into_iter().filter_map(|name| all.section(&name).map(|section| (name, section))).collect();
        // What is no object goes back, to be named.
        if !all.members.is_empty() {
            self.members.insert(key.to_owned(), Value::Object(all.members));
        }
        found
    }

    /// `min_delay_seconds` and `max_delay_seconds`, which OPA wants both or none.
    fn delays(&mut self) -> Option<(u64, u64)> {
        match (self.count("min_delay_seconds"), self.count("max_delay_seconds")) {
            (Some(min), Some(max)) => Some((min, max.max(min))),
            (Some(one), None) | (None, Some(one)) => Some((one, one)),
            (None, None) => None,
        }
    }

    /// Whatever was not taken has no counterpart.
    fn finish(self, findings: &mut Findings) {
        missing::name(&self.path, &Value::Object(self.members), findings);
    }
}

/// The translation under construction.
#[derive(Default)]
struct Yaml(String);

impl Yaml {
    fn line(&mut self, indent: usize, text: &str) {
        self.0.push_str(&" ".repeat(indent));
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn comment(&mut self, indent: usize, text: &str) {
        self.line(indent, &format!("# {text}"));
    }

    /// A text value, quoted so that it is nothing else.
    fn text(&mut self, indent: usize, key: &str, value: &str) {
        self.line(indent, &format!("{key}: {}", quoted(value)));
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests;
