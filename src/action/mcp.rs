//! The call inside an MCP request: JSON-RPC in the body of a POST, read strictly, because the server reads it too. From
//! version 2026-07-28 on headers repeat method and name, and have to agree with the body; `Mcp-Session-Id` is the client's
//! choice and means nothing here.

use std::collections::HashMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use foldhash::quality::RandomState;
use serde_json::{Map, Value};

use super::Mcp;
use crate::{json, request::Http};

/// A route says by this context extension that MCP is spoken on it, where no catalogue lists it.
pub const ROUTE: &str = "doorward-protocol";
/// And by this one which status a refusal has.
pub const DENY_STATUS: &str = "doorward-mcp-deny-status";

/// The first version whose headers repeat the call.
const REPEATED_SINCE: &str = "2026-07-28";
/// Deepest nesting of a body.
const DEPTH: usize = 64;

/// One call, read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    pub(super) version: Option<String>,
    /// Of JSON-RPC; `response` for the client's answer to the server, `sse` and `end` for GET and DELETE.
    pub(super) method: String,
    pub(super) tool: Option<String>,
    pub(super) uri: Option<String>,
    /// As JSON.
    pub(super) id: Option<String>,
    /// Of the tool or prompt; else all parameters.
    pub(super) arguments: Value,
}

/// Why a request at an endpoint is no call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unread {
    pub(super) word: &'static str,
    /// Of the request that is refused, where it could be found.
    id: Option<String>,
}

impl Unread {
    pub(super) fn shown(&self) -> Mcp {
        Mcp { request_id: self.id.clone(), ..Mcp::default() }
    }
}

impl Call {
    pub(super) fn shown(&self) -> Mcp {
        Mcp {
            version: self.version.clone(),
            method: self.method.clone(),
            tool: self.tool.clone(),
            uri: self.uri.clone(),
            request_id: self.id.clone(),
            refuse_with_200: false,
        }
    }
}

/// Reads the call of a request at an endpoint. `complete` says whether the whole body is here.
pub(super) fn read(http: &Http, complete: bool) -> Result<Call, Unread> {
    let unread = |word| Unread { word, id: None };
    let version = http.headers.get("mcp-protocol-version").map(str::to_owned);
    let bare = |method: &str| Call {
        version: version.clone(),
        method: method.to_owned(),
        tool: None,
        uri: None,
        id: None,
        arguments: Value::Null,
    };
    match http.method.as_str() {
        "GET" => return Ok(bare("sse")),
        "DELETE" => return Ok(bare("end")),
        "POST" => {}
        _ => return Err(unread("mcp_method")),
    }
    let kind =
        http.headers.get("content-type").map(|kind| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    if kind.as_deref() != Some("application/json") {
        return Err(unread("mcp_content_type"));
    }
    if !complete {
        return Err(unread("mcp_body_incomplete"));
    }
    let bytes = if http.raw_body.is_empty() { http.body.as_bytes() } else { &http.raw_body };
    if bytes.is_empty() {
        return Err(unread("mcp_no_body"));
    }
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(unread("mcp_batch"));
    }
    let mut body = json::strict_object(bytes, DEPTH).map_err(|_| unread("mcp_malformed"))?;
    let id = match body.get("id") {
        None => None,
        Some(id @ (Value::String(_) | Value::Number(_))) => Some(id.to_string()),
        Some(_) => return Err(unread("mcp_id")),
    };
    let unread = |word| Unread { word, id: id.clone() };
    if body.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(unread("mcp_malformed"));
    }
    if !body.contains_key("method") && id.is_some() && (body.contains_key("result") != body.contains_key("error")) {
        return Ok(Call { id, ..bare("response") });
    }
    let known = |name: &String| ["jsonrpc", "id", "method", "params"].contains(&name.as_str());
    let Some(Value::String(method)) = body.get("method").cloned().filter(|_| body.keys().all(known)) else {
        return Err(unread("mcp_malformed"));
    };
    let params = match body.remove("params") {
        None => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => return Err(unread("mcp_malformed")),
    };
    let text = |name: &str| match params.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
        _ => Err(unread("mcp_malformed")),
    };
    let (tool, uri) = match method.as_str() {
        "tools/call" | "prompts/get" => (text("name")?, None),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => (None, text("uri")?),
        _ => (None, None),
    };
    if version.as_deref().is_some_and(|version| version >= REPEATED_SINCE) {
        let name = tool.as_ref().or(uri.as_ref());
        let agrees = http.headers.get("mcp-method") == Some(&method)
            && http.headers.get("mcp-name").map(decoded).unwrap_or_default().as_ref() == name;
        if !agrees {
            return Err(unread("mcp_header_mismatch"));
        }
    }
    let arguments = match (&tool, params.get("arguments")) {
        (Some(_), arguments) => arguments.cloned().unwrap_or_else(|| Value::Object(Map::new())),
        (None, _) => Value::Object(params),
    };
    Ok(Call { version, method, tool, uri, id, arguments })
}

/// A header value, which is `=?base64?…?=` where it would not be plain.
fn decoded(value: &str) -> Option<String> {
    match value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        Some(encoded) => String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok(),
        None => Some(value.to_owned()),
    }
}

/// Which calls at an endpoint a match takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    method: String,
    /// Name of a tool or prompt, or a URI: whole, or the beginning of it.
    subject: Option<Subject>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    Whole(String),
    Beginning(String),
}

impl Pattern {
    /// From what is written; the text says what is wrong with it.
    pub(super) fn new(method: Option<String>, tool: Option<&str>, uri: Option<&str>) -> Result<Self, &'static str> {
        let subject = match (tool, uri) {
            (Some(_), Some(_)) => return Err("has `tool` or `uri`, not both"),
            (Some(text), None) | (None, Some(text)) => Some(text),
            (None, None) => None,
        };
        let method = match (method, tool, uri) {
            (Some(method), Some(_), _) if !matches!(method.as_str(), "tools/call" | "prompts/get") => {
                return Err("`tool` goes with the methods `tools/call` and `prompts/get`");
            }
            (Some(method), _, Some(_)) if !method.starts_with("resources/") => {
                return Err("`uri` goes with methods of resources");
            }
            (Some(method), ..) => method,
            (None, Some(_), _) => "tools/call".to_owned(),
            (None, None, Some(_)) => "resources/read".to_owned(),
            (None, None, None) => return Err("has to have `tool`, `uri` or `method`"),
        };
        let subject = match subject {
            None | Some("*") => None,
            Some("") => return Err("has an empty name, which no call has"),
            Some(text) => Some(match text.strip_suffix('*') {
                Some(beginning) => Subject::Beginning(beginning.to_owned()),
                None => Subject::Whole(text.to_owned()),
            }),
        };
        if matches!(&subject, Some(Subject::Whole(text) | Subject::Beginning(text)) if text.contains('*')) {
            return Err("has a `*` that is not at its end");
        }
        Ok(Self { method, subject })
    }

    /// Whether both take the same calls.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self == other
    }
}

/// The matches of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Tools(HashMap<String, Method, RandomState>);

#[derive(Debug, Default)]
struct Method {
    any: Option<usize>,
    whole: HashMap<String, usize, RandomState>,
    /// The longest first.
    beginnings: Vec<(String, usize)>,
}

impl Tools {
    pub(super) fn insert(&mut self, pattern: Pattern, number: usize) {
        let method = self.0.entry(pattern.method).or_default();
        match pattern.subject {
            None => method.any = Some(number),
            Some(Subject::Whole(text)) => drop(method.whole.insert(text, number)),
            Some(Subject::Beginning(text)) => {
                method.beginnings.push((text, number));
                method.beginnings.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
            }
        }
    }

    pub(super) fn find(&self, call: &Call) -> Option<usize> {
        let Method { any, whole, beginnings } = self.0.get(&call.method)?;
        let Some(subject) = call.tool.as_ref().or(call.uri.as_ref()) else { return *any };
        let by_beginning = || beginnings.iter().find(|(text, _)| subject.starts_with(text)).map(|(_, number)| *number);
        whole.get(subject).copied().or_else(by_beginning).or(*any)
    }
}

#[cfg(test)]
mod tests;
