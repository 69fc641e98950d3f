//! The document as it is written: read entry by entry, each match made plain, and what can never match told.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::Value;

use super::{
    super::{Adds, Entry, GrantLimits, GrantRule, mcp::Pattern},
    Narrowness, resource,
};
use crate::{
    json::{self, Fault, Shown},
    request::{Address, Request},
    segments::Width,
    verdict::{Class, Mode, Sensitivity, Tier},
};

/// How long a label stays unless its entry says otherwise.
const LABEL_TTL_S: u64 = 3600;
/// Longest label in bytes.
const MAX_LABEL: usize = 128;

/// One entry, read.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) entry: Arc<Entry>,
    pub(super) resource: Option<resource::Rule>,
    pub(super) matches: Vec<Match>,
}

/// One way to be an action.
#[derive(Debug, Clone)]
pub(super) struct Match {
    pub(super) host: Option<String>,
    /// Without a last `**`.
    pub(super) segments: Vec<Segment>,
    /// Whether `**` follows.
    pub(super) open: bool,
    pub(super) calls: Calls,
    /// As it is written.
    pub(super) shown: String,
    /// Its place in the document.
    pub(super) at: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// None: any.
    pub(super) literal: Option<String>,
    pub(super) name: Option<Arc<str>>,
}

#[derive(Debug, Clone)]
pub(super) enum Calls {
    Any,
    Methods(Vec<String>),
    Grpc,
    Mcp(Pattern),
    Tcp(Tcp),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tcp {
    port: Option<u16>,
    sni: Option<String>,
}

impl Tcp {
    pub(super) fn fits(&self, request: &Request) -> bool {
        let port = match request.destination.as_ref().and_then(|destination| destination.address.as_ref()) {
            Some(Address::Socket { port, .. }) => *port,
            _ => None,
        };
        self.port.is_none_or(|wanted| port == Some(wanted.into()))
            && self.sni.as_ref().is_none_or(|wanted| request.sni.as_ref() == Some(wanted))
    }

    pub(super) fn width(&self) -> usize {
        usize::from(self.port.is_some()) + usize::from(self.sni.is_some())
    }
}

impl Match {
    /// Its segments, none where any one will do.
    pub(super) fn literals(&self) -> Vec<Option<&str>> {
        self.segments.iter().map(|segment| segment.literal.as_deref()).collect()
    }

    pub(super) fn width(&self) -> Narrowness {
        let more = usize::from(self.host.is_some()) + usize::from(!matches!(self.calls, Calls::Any));
        (Width::of(&self.literals(), !self.open), more)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    r#match: Vec<Value>,
    #[serde(default = "unknown")]
    class: Class,
    #[serde(default = "medium")]
    sensitivity: Sensitivity,
    #[serde(default)]
    resource: Option<resource::Rule>,
    #[serde(default)]
    tier: Option<Tier>,
    #[serde(default)]
    evidence: Option<NoEvidence>,
    #[serde(default)]
    adds: Vec<RawAdds>,
    #[serde(default)]
    requires: Vec<Arc<str>>,
    #[serde(default)]
    forbid_after: Vec<Arc<str>>,
    #[serde(default)]
    grant: GrantRule,
    #[serde(default)]
    grant_limits: RawGrantLimits,
    #[serde(default)]
    mode: Mode,
    /// For people.
    #[serde(default, rename = "description")]
    _description: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGrantLimits {
    life_s: Option<NonZeroU32>,
    uses: Option<NonZeroU32>,
    approvals: Option<NonZeroU32>,
}

impl From<RawGrantLimits> for GrantLimits {
    fn from(raw: RawGrantLimits) -> Self {
        let RawGrantLimits { life_s, uses, approvals } = raw;
        Self {
            life: life_s.map(|seconds| Duration::from_secs(u64::from(seconds.get()))),
            uses: uses.map(NonZeroU32::get),
            approvals: approvals.map(NonZeroU32::get),
        }
    }
}

/// The only value of `evidence`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum NoEvidence {
    None,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RawAdds {
    Label(Arc<str>),
    Whole(WholeAdds),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WholeAdds {
    label: Arc<str>,
    ttl_s: Option<u64>,
    #[serde(default)]
    scope: Scope,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scope {
    #[default]
    Principal,
    Session,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMatch {
    path: Option<String>,
    methods: Option<Vec<String>>,
    host: Option<String>,
    grpc: Option<String>,
    mcp: Option<RawMcp>,
    tcp: Option<Tcp>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMcp {
    path: String,
    host: Option<String>,
    method: Option<String>,
    tool: Option<String>,
    uri: Option<String>,
}

const fn unknown() -> Class {
    Class::Unknown
}

const fn medium() -> Sensitivity {
    Sensitivity::Medium
}

/// Every entry that can be read, and what is wrong with the others.
pub(super) fn read(document: &Value) -> (Vec<Written>, Vec<Fault>) {
    let Some(entries) = document.as_object() else {
        return (Vec::new(), vec![Fault { at: Vec::new(), text: "is no object of actions".to_owned() }]);
    };
    let (mut written, mut faults) = (Vec::new(), Vec::new());
    for (name, value) in entries {
        match entry(name, value) {
            Ok(entry) => written.push(entry),
            Err(wrong) => faults.extend(wrong.into_iter().map(|mut fault| {
                fault.at.insert(0, name.clone());
                fault
            })),
        }
    }
    (written, faults)
}

fn entry(name: &str, value: &Value) -> Result<Written, Vec<Fault>> {
    let raw: Raw = json::document(value)?;
    let mut faults = Vec::new();
    let mut fault = |at: &[&str], text: String| {
        faults.push(Fault { at: at.iter().map(|part| (*part).to_owned()).collect(), text });
    };
    if name.is_empty() || name.len() > MAX_LABEL || !name.bytes().all(|byte| byte.is_ascii_graphic() && !b"*\"'".contains(&byte))
    {
        fault(&[], "a name has letters, digits and signs like `.` and `-`, and no `*`".to_owned());
    }
    if raw.r#match.is_empty() {
        fault(&["match"], "is empty, so nothing would ever be this action".to_owned());
    }
    let named = raw.requires.iter().chain(&raw.forbid_after);
    let added = raw.adds.iter().map(|adds| match adds {
        RawAdds::Label(label) | RawAdds::Whole(WholeAdds { label, .. }) => label,
    });
    if named.chain(added).any(|label| label.is_empty() || label.len() > MAX_LABEL) {
        fault(&[], format!("a label has 1 to {MAX_LABEL} bytes"));
    }
    if raw.evidence.is_some() && !(raw.adds.is_empty() && raw.requires.is_empty() && raw.forbid_after.is_empty()) {
        fault(&["evidence"], "what is open to everybody cannot mark a session, nor go by one".to_owned());
    }
    if raw.adds.iter().any(|adds| matches!(adds, RawAdds::Whole(WholeAdds { ttl_s: Some(0), .. }))) {
        fault(&["adds"], "a label that lives for 0 s would be none".to_owned());
    }
    let mut matches = Vec::new();
    for (index, value) in raw.r#match.iter().enumerate() {
        match one_match(name, index, value) {
            Ok(found) => {
                if let Some(missing) = raw.resource.as_ref().and_then(|rule| rule.missing_param(&found.segments)) {
                    fault(&["resource"], format!("names the segment `{missing}`, which `{}` does not have", found.shown));
                }
                matches.push(found);
            }
            Err((key, text)) => fault(&["match", &index.to_string(), &key], text),
        }
    }
    if !faults.is_empty() {
        faults.iter_mut().for_each(|fault| fault.at.retain(|part| !part.is_empty()));
        return Err(faults);
    }
    let adds = raw.adds.into_iter().map(|adds| match adds {
        RawAdds::Label(label) => Adds { label, ttl: Duration::from_secs(LABEL_TTL_S), for_session: false },
        RawAdds::Whole(WholeAdds { label, ttl_s, scope }) => {
            Adds { label, ttl: Duration::from_secs(ttl_s.unwrap_or(LABEL_TTL_S)), for_session: scope == Scope::Session }
        }
    });
    let entry = Entry {
        name: name.into(),
        class: raw.class,
        sensitivity: raw.sensitivity,
        tier: raw.tier,
        is_public: raw.evidence.is_some(),
        adds: adds.collect(),
        requires: raw.requires,
        forbid_after: raw.forbid_after,
        grant: raw.grant,
        grant_limits: raw.grant_limits.into(),
        mode: raw.mode,
        shown: Shown::default(),
    };
    Ok(Written { entry: Arc::new(entry), resource: raw.resource, matches })
}

/// A match, or the key that is wrong and why.
fn one_match(name: &str, index: usize, value: &Value) -> Result<Match, (String, String)> {
    let raw: RawMatch = json::document(value).map_err(|faults| {
        let fault = faults.into_iter().next();
        fault.map_or_else(Default::default, |fault| (fault.at.join("."), fault.text))
    })?;
    let wrong = |key: &str, text: &str| Err((key.to_owned(), text.to_owned()));
    let kinds = [raw.path.is_some(), raw.grpc.is_some(), raw.mcp.is_some(), raw.tcp.is_some()];
    if kinds.into_iter().filter(|is_there| *is_there).count() != 1 {
        return wrong("", "has to have one of `path`, `grpc`, `mcp` and `tcp`");
    }
    if raw.methods.is_some() && raw.path.is_none() {
        return wrong("methods", "only go with `path`");
    }
    let at = vec![name.to_owned(), "match".to_owned(), index.to_string()];
    let shown = value.to_string();
    if let Some(tcp) = raw.tcp {
        if tcp.port.is_none() && tcp.sni.is_none() {
            return wrong("tcp", "has to have `port` or `sni`");
        }
        return Ok(Match { host: None, segments: Vec::new(), open: false, calls: Calls::Tcp(tcp), shown, at });
    }
    let host = raw.host.as_ref().or(raw.mcp.as_ref().and_then(|mcp| mcp.host.as_ref())).cloned();
    if let Some(host) = &host
        && (super::normal_host(host) != *host || host.is_empty() || host.contains(['/', '*', '@']))
    {
        return wrong("host", "never matches: hosts are compared in lower case, without port and final dot");
    }
    if let Some(grpc) = &raw.grpc {
        let (segments, open) = path(&format!("/{grpc}")).map_err(|text| ("grpc".to_owned(), text))?;
        if open || segments.len() != 2 || segments.first().is_none_or(|service| service.literal.is_none()) {
            return wrong("grpc", "is `package.Service/Method`, or `package.Service/*`");
        }
        return Ok(Match { host, segments, open, calls: Calls::Grpc, shown, at });
    }
    if let Some(RawMcp { path: endpoint, host: _, method, tool, uri }) = raw.mcp {
        let (segments, open) = path(&endpoint).map_err(|text| ("mcp.path".to_owned(), text))?;
        let pattern =
            Pattern::new(method, tool.as_deref(), uri.as_deref()).map_err(|text| ("mcp".to_owned(), text.to_owned()))?;
        return Ok(Match { host, segments, open, calls: Calls::Mcp(pattern), shown, at });
    }
    let (segments, open) = path(raw.path.as_deref().unwrap_or_default()).map_err(|text| ("path".to_owned(), text))?;
    let calls = match raw.methods {
        None => Calls::Any,
        Some(methods) if methods.is_empty() => {
            return wrong("methods", "are empty, so it never matches; leave the key out for all");
        }
        Some(methods)
            if !methods
                .iter()
                .all(|method| !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-')) =>
        {
            return wrong("methods", "are in upper case, as requests have them");
        }
        Some(methods) => Calls::Methods(methods),
    };
    Ok(Match { host, segments, open, calls, shown, at })
}

/// A path pattern, in the form that request paths are compared in.
fn path(text: &str) -> Result<(Vec<Segment>, bool), String> {
    let Some(rest) = text.strip_prefix('/') else { return Err("has to start with `/`".to_owned()) };
    let mut parts: Vec<&str> = if rest.is_empty() { Vec::new() } else { rest.split('/').collect() };
    let open = parts.last() == Some(&"**");
    if open {
        parts.pop();
    }
    let never = |why: &str| Err(format!("never matches: {why}"));
    let mut names: Vec<&str> = Vec::new();
    let mut segments = Vec::with_capacity(parts.len());
    for part in parts {
        let name = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
        segments.push(match (part, name) {
            ("", _) => return never("request paths are compared without empty segments and a final `/`"),
            ("." | "..", _) => return never("request paths are compared with dot segments resolved"),
            ("**", _) => return Err("has `**` before its end; it stands for all that follows".to_owned()),
            ("*", _) => Segment { literal: None, name: None },
            (_, Some(name)) => {
                let good = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                if !good || names.contains(&name) {
                    return Err(format!("`{{{name}}}` is no name, or is there twice"));
                }
                names.push(name);
                Segment { literal: None, name: Some(name.into()) }
            }
            (part, None) if part.contains(['?', '#']) => return never("query and fragment are no part of the path"),
            (part, None) if part.contains(['{', '}', '*']) => {
                return Err(format!("`{part}`: `*` and `{{name}}` stand for one whole segment"));
            }
            (part, None) if part.contains('%') => return never("request paths are compared decoded"),
            (part, None) if part.contains(['\\', ';']) || part.bytes().any(|byte| byte.is_ascii_control()) => {
                return never("a path with such a character is ambiguous, and so no known action");
            }
            (part, None) => Segment { literal: Some(part.to_owned()), name: None },
        });
    }
    Ok((segments, open))
}
