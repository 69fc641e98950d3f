//! The object form of a decision, field by field: types, what may be in a header, which status Envoy can send.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Answer, Header, METADATA_DEPTH, Refusal, Warning};
use crate::{config::Compat, verdict::Decision};

/// Most entries in one list of a result. Envoy's own limit on the headers of a message is far lower.
pub(super) const ENTRIES: usize = 1000;

/// Most labels of one result, and the longest of them in bytes.
const LABELS: usize = 16;
const MAX_LABEL: usize = 128;

/// The object form of a decision.
pub(super) struct Fields<'a> {
    pub(super) fields: &'a Map<String, Value>,
    pub(super) compat: Option<Compat>,
}

impl Fields<'_> {
    pub(super) fn read(&self) -> Result<Answer, Refusal> {
        let decision = match self.fields.get("allowed") {
            None => return Err(Refusal::NoAllowed),
            Some(Value::Bool(true)) => Decision::Allow,
            Some(Value::Bool(false)) => Decision::Deny,
            Some(other) => return Err(Refusal::AllowedType { found: kind(other) }),
        };
        let mut answer = Answer {
            headers: self.headers("headers")?,
            metadata: self.metadata()?,
            reason: self.own_text("reason")?,
            rule: self.own_text("rule")?,
            labels: self.labels()?,
            end_session: self.own_flag("end_session")?,
            ..Answer::new(decision)
        };
        match decision {
            Decision::Allow => self.read_allow(&mut answer)?,
            Decision::Deny => {
                answer.body = self.body()?;
                answer.status = self.status()?;
                answer.scope = self.scope()?;
                answer.requestable = self.own_flag("requestable")?;
            }
        }
        Ok(answer)
    }

    fn read_allow(&self, answer: &mut Answer) -> Result<(), Refusal> {
        answer.response_headers = self.headers("response_headers_to_add")?;
        for name in self.strings("request_headers_to_remove")? {
            if self.compat.is_none() && (name.starts_with(':') || name.eq_ignore_ascii_case("host")) {
                answer.warnings.push(Warning::Unremovable { name: escape(name) });
                continue;
            }
            self.check_name("request_headers_to_remove", name)?;
            if answer.headers.iter().any(|header| header.name.eq_ignore_ascii_case(name)) {
                answer.warnings.push(Warning::SetAndRemoved { name: escape(name) });
            }
            answer.remove_headers.push(name.to_owned());
        }
        self.read_query(answer)?;
        answer.lease = self.lease()?;
        answer.grant = self.grant()?;
        Ok(())
    }

    /// Query parameters go out percent-encoded, except under compat, where the policy has encoded them itself: there a
    /// line break would be pasted into the request line.
    fn read_query(&self, answer: &mut Answer) -> Result<(), Refusal> {
        const SET: &str = "query_parameters_to_set";
        const REMOVE: &str = "query_parameters_to_remove";
        let check = |field, key: &str, text: &str| match self.compat {
            Some(_) if breaks_line(text) => Err(Refusal::ControlCharacter { field, name: escape(key) }),
            _ => Ok(()),
        };
        match self.fields.get(SET) {
            None => {}
            Some(Value::Object(parameters)) => {
                for (key, value) in parameters {
                    check(SET, key, key)?;
                    let before = answer.query_set.len();
                    each_text(SET, key, value, |text| {
                        check(SET, key, text)?;
                        answer.query_set.push((key.clone(), text.to_owned()));
                        Ok(())
                    })?;
                    if answer.query_set.len() > ENTRIES {
                        return Err(Refusal::TooMany { field: SET });
                    }
                    if answer.query_set.len() > before + 1 {
                        answer.warnings.push(Warning::QueryValues { key: escape(key) });
                    }
                }
            }
            Some(other) => return Err(Refusal::FieldType { field: SET, found: kind(other), wanted: "an object" }),
        }
        for key in self.strings(REMOVE)? {
            check(REMOVE, key, key)?;
            answer.query_remove.push(key.to_owned());
        }
        Ok(())
    }

    /// An object, or an array of objects, of names to a string or an array of strings.
    fn headers(&self, field: &'static str) -> Result<Vec<Header>, Refusal> {
        let mut list = Vec::new();
        match self.fields.get(field) {
            None => {}
            Some(Value::Object(headers)) => self.add_headers(field, headers, &mut list)?,
            Some(Value::Array(objects)) => {
                for object in objects {
                    let Value::Object(headers) = object else {
                        return Err(Refusal::FieldType {
                            field,
                            found: "an array with a non-object",
                            wanted: "an array of objects",
                        });
                    };
                    self.add_headers(field, headers, &mut list)?;
                }
            }
            Some(other) => {
                return Err(Refusal::FieldType { field, found: kind(other), wanted: "an object or an array of objects" });
            }
        }
        Ok(list)
    }

    fn add_headers(&self, field: &'static str, headers: &Map<String, Value>, list: &mut Vec<Header>) -> Result<(), Refusal> {
        list.reserve(headers.len());
        for (name, value) in headers {
            self.check_name(field, name)?;
            if self.compat.is_none() && name.eq_ignore_ascii_case("host") {
                return Err(Refusal::ReservedHeader { field, name: escape(name) });
            }
            each_text(field, name, value, |text| {
                self.check_value(field, name, text)?;
                list.push(Header { name: name.clone(), value: text.to_owned() });
                Ok(())
            })?;
            if list.len() > ENTRIES {
                return Err(Refusal::TooMany { field });
            }
        }
        Ok(())
    }

    /// A token of RFC 9110 section 5.6.2, which leaves no pseudo-header. Under compat whatever breaks no line.
    fn check_name(&self, field: &'static str, name: &str) -> Result<(), Refusal> {
        let good = match self.compat {
            None => is_token(name),
            Some(Compat::OpaEnvoy) => !breaks_line(name),
        };
        if good { Ok(()) } else { Err(Refusal::HeaderName { field, name: escape(name) }) }
    }

    /// RFC 9110 section 5.5: no control character but the tab. Under compat whatever breaks no line.
    fn check_value(&self, field: &'static str, name: &str, value: &str) -> Result<(), Refusal> {
        let bad = match self.compat {
            None => value.bytes().any(|byte| byte != b'\t' && byte.is_ascii_control()),
            Some(Compat::OpaEnvoy) => breaks_line(value),
        };
        if bad { Err(Refusal::ControlCharacter { field, name: escape(name) }) } else { Ok(()) }
    }

    fn strings(&self, field: &'static str) -> Result<Vec<&str>, Refusal> {
        let wanted = "an array of strings";
        match self.fields.get(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) if items.len() > ENTRIES => Err(Refusal::TooMany { field }),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| item.as_str().ok_or(Refusal::FieldType { field, found: "an array with a non-string", wanted }))
                .collect(),
            Some(other) => Err(Refusal::FieldType { field, found: kind(other), wanted }),
        }
    }

    fn body(&self) -> Result<Option<String>, Refusal> {
        match self.fields.get("body") {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(Refusal::FieldType { field: "body", found: kind(other), wanted: "a string" }),
        }
    }

    fn status(&self) -> Result<Option<u16>, Refusal> {
        let number = match self.fields.get("http_status") {
            None => return Ok(None),
            Some(Value::Number(number)) => number,
            Some(other) => {
                return Err(Refusal::FieldType { field: "http_status", found: kind(other), wanted: "an integer" });
            }
        };
        match number.as_u64().and_then(|code| u16::try_from(code).ok()) {
            Some(code) if is_sendable(code, self.compat) => Ok(Some(code)),
            _ => Err(Refusal::Status { status: number.to_string() }),
        }
    }

    fn metadata(&self) -> Result<Map<String, Value>, Refusal> {
        match self.fields.get("dynamic_metadata") {
            None => Ok(Map::new()),
            Some(value @ Value::Object(fields)) => {
                check_metadata(value, METADATA_DEPTH)?;
                Ok(fields.clone())
            }
            Some(other) => Err(Refusal::FieldType { field: "dynamic_metadata", found: kind(other), wanted: "an object" }),
        }
    }

    /// What a token would have to be good for (RFC 6750 §3): it goes into a quoted string of a header.
    fn scope(&self) -> Result<Option<String>, Refusal> {
        let is_scope = |c: char| matches!(c, ' ' | '!' | '#'..='[' | ']'..='~');
        match self.own_text("scope")? {
            Some(scope) if !scope.chars().all(is_scope) => {
                Err(Refusal::OwnField { field: "scope", wanted: "names of scopes with spaces between them" })
            }
            found => Ok(found),
        }
    }

    fn own_text(&self, field: &'static str) -> Result<Option<String>, Refusal> {
        match self.fields.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Refusal::OwnField { field, wanted: "a string" }),
        }
    }

    fn own_flag(&self, field: &'static str) -> Result<bool, Refusal> {
        match self.fields.get(field) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(Refusal::OwnField { field, wanted: "a boolean" }),
        }
    }

    fn grant(&self) -> Result<Option<Uuid>, Refusal> {
        let refused = || Refusal::OwnField { field: "grant", wanted: "the id of a grant" };
        let said = self.own_text("grant")?;
        said.map(|text| text.parse().map_err(|_| refused())).transpose()
    }

    fn labels(&self) -> Result<Vec<Arc<str>>, Refusal> {
        let wanted = "an array of at most 16 labels of at most 128 characters";
        let refused = Refusal::OwnField { field: "labels", wanted };
        match self.fields.get("labels") {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) if items.len() <= LABELS => {
                let label =
                    |item: &Value| item.as_str().filter(|text| !text.is_empty() && text.len() <= MAX_LABEL).map(Arc::from);
                items.iter().map(label).collect::<Option<_>>().ok_or(refused)
            }
            Some(_) => Err(refused),
        }
    }

    fn lease(&self) -> Result<Option<Duration>, Refusal> {
        let Some(value) = self.fields.get("lease_s") else { return Ok(None) };
        value
            .as_f64()
            .filter(|seconds| *seconds > 0.0)
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .map(|lease| Some(lease.max(Duration::from_millis(1))))
            .ok_or(Refusal::OwnField { field: "lease_s", wanted: "a positive number of seconds" })
    }
}

/// Calls `take` with a string, or with each of an array of strings.
fn each_text(
    field: &'static str,
    name: &str,
    value: &Value,
    mut take: impl FnMut(&str) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let refuse = |found| Refusal::ValueType { field, name: escape(name), found };
    match value {
        Value::String(text) => take(text),
        Value::Array(items) => {
            items.iter().try_for_each(|item| item.as_str().ok_or_else(|| refuse(kind(item))).and_then(&mut take))
        }
        other => Err(refuse(kind(other))),
    }
}

/// A protobuf number is a double: what is no finite double cannot be sent.
fn check_metadata(value: &Value, levels: usize) -> Result<(), Refusal> {
    match value {
        Value::Number(number) if number.as_f64().is_none() => Err(Refusal::MetadataNumber),
        Value::Array(_) | Value::Object(_) if levels == 0 => Err(Refusal::MetadataDepth),
        Value::Array(items) => items.iter().try_for_each(|item| check_metadata(item, levels - 1)),
        Value::Object(fields) => fields.values().try_for_each(|item| check_metadata(item, levels - 1)),
        _ => Ok(()),
    }
}

/// The codes of Envoy's `type.v3.StatusCode`. An interim status (RFC 9110 section 15.2) is no answer: Envoy would send
/// it and the client wait for another. Under compat it passes.
fn is_sendable(code: u16, compat: Option<Compat>) -> bool {
    match code {
        100 => compat.is_some(),
        200..=208 | 226 | 300..=305 | 307 | 308 | 400..=417 | 421..=424 | 426 | 428 | 429 | 431 | 500..=508 | 510 | 511 => true,
        _ => false,
    }
}

fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn breaks_line(text: &str) -> bool {
    text.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

fn escape(name: &str) -> String {
    name.escape_debug().collect()
}

/// What a refusal calls a value.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
