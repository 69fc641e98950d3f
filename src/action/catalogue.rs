//! `data.doorward.actions`, compiled: from the name of an action to what a request must be, and what follows. Found by a
//! tree of path segments; of several entries that match, the narrowest is taken.

mod conflict;
mod document;
mod resource;

use std::{collections::HashMap, sync::Arc};

use foldhash::quality::RandomState;

use self::document::{Calls, Match, Written};
use super::{
    Action, Entry, Mcp, canonical,
    mcp::{self, Call},
};
use crate::{
    json::Fault,
    request::{Body, Http, Request},
    segments::{Tree, Width},
    verdict::{Class, Protocol, Tier},
};

/// Headers by which some servers let another method replace the one in the request line.
const OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

/// All actions.
#[derive(Debug, Default)]
pub struct Catalogue {
    targets: Vec<Target>,
    hosts: HashMap<Box<str>, Tree<Leaf>, RandomState>,
    any_host: Tree<Leaf>,
    tcp: Vec<(document::Tcp, usize)>,
}

/// What a match leads to.
#[derive(Debug)]
struct Target {
    entry: Arc<Entry>,
    resource: Option<resource::Rule>,
    /// Places and names of the named segments.
    params: Vec<(usize, Arc<str>)>,
    /// The match as it is written, for people.
    shown: String,
}

/// What ends at a place of a path.
#[derive(Debug, Default)]
struct Leaf {
    methods: HashMap<Box<str>, usize, RandomState>,
    any_method: Option<usize>,
    grpc: Option<usize>,
    mcp: Option<Box<mcp::Tools>>,
}

/// How narrow a match is, the narrower the larger: its path, and how much else is asked.
pub(super) type Narrowness = (Width, usize);

/// What a path leads to.
#[derive(Clone, Copy)]
enum Found<'c> {
    Target(usize),
    Mcp(&'c mcp::Tools),
}

impl Catalogue {
    /// Reads the document. All that is wrong is told together.
    ///
    /// # Errors
    /// Entries that cannot be read, can never match, or match the same requests equally narrowly.
    pub fn compile(document: &serde_json::Value) -> Result<Self, Vec<Fault>> {
        let (written, mut faults) = document::read(document);
        faults.extend(conflict::find(&written));
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut catalogue = Self::default();
        for Written { entry, resource, matches } in written {
            for found in matches {
                catalogue.insert(&entry, resource.as_ref(), found);
            }
        }
        Ok(catalogue)
    }

    fn insert(&mut self, entry: &Arc<Entry>, resource: Option<&resource::Rule>, found: Match) {
        let number = self.targets.len();
        let Match { host, segments, open, calls, shown, .. } = found;
        let named = segments.iter().enumerate().filter_map(|(at, segment)| Some((at, segment.name.clone()?)));
        self.targets.push(Target { entry: Arc::clone(entry), resource: resource.cloned(), params: named.collect(), shown });
        if let Calls::Tcp(tcp) = calls {
            self.tcp.push((tcp, number));
            return;
        }
        let tree = match host {
            Some(host) => self.hosts.entry(host.into()).or_default(),
            None => &mut self.any_host,
        };
        let leaf = tree.place(segments.iter().map(|segment| segment.literal.as_deref()), !open);
        match calls {
            Calls::Any => leaf.any_method = Some(number),
            Calls::Methods(methods) => leaf.methods.extend(methods.into_iter().map(|method| (method.into(), number))),
            Calls::Grpc => leaf.grpc = Some(number),
            Calls::Mcp(pattern) => leaf.mcp.get_or_insert_default().insert(pattern, number),
            Calls::Tcp(_) => {}
        }
    }

    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Every entry, several times where it has several matches.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.targets.iter().map(|target| &target.entry)
    }

    /// The entry of a name. Goes through all: it is for people who ask, not for calls.
    pub fn named(&self, name: &str) -> Option<&Arc<Entry>> {
        self.entries().find(|entry| *entry.name == *name)
    }

    pub fn has_path_relevant(&self) -> bool {
        self.entries().any(|entry| entry.is_path_relevant())
    }

    pub fn has_strict(&self) -> bool {
        self.entries().any(|entry| entry.tier == Some(Tier::Strict))
    }

    /// What a request does.
    pub fn find(&self, request: &Request) -> Action {
        let mut action = Action {
            protocol: request.protocol(),
            entry: None,
            resource: None,
            params: Vec::new(),
            args_digest: None,
            body_complete: true,
            error: None,
            mcp: None,
        };
        let Some(http) = &request.http else {
            let found = self.tcp.iter().filter(|(tcp, _)| tcp.fits(request)).max_by_key(|(tcp, _)| tcp.width());
            action.entry = found.and_then(|(_, number)| self.targets.get(*number)).map(|target| Arc::clone(&target.entry));
            return action;
        };
        action.body_complete = is_complete(http);
        let found = if self.is_empty() { None } else { self.by_path(http, action.protocol == Protocol::Grpc) };
        let by_route = request.context_extensions.get(mcp::ROUTE).is_some_and(|value| value == "mcp");
        let tools = match found {
            Some((_, Found::Mcp(tools))) => Some(tools),
            _ => None,
        };
        let call = (tools.is_some() || by_route).then(|| mcp::read(http, action.body_complete));
        if let Some(call) = &call {
            action.protocol = Protocol::Mcp;
            let refuse_with_200 = request.context_extensions.get(mcp::DENY_STATUS).is_some_and(|status| status == "200");
            action.mcp = Some(Mcp { refuse_with_200, ..call.as_ref().map_or_else(|unread| unread.shown(), Call::shown) });
        }
        action.error = if OVERRIDES.iter().any(|name| http.headers.get(name).is_some()) {
            Some("method_override")
        } else if !http.url.reasons.is_empty() {
            Some("ambiguous_path")
        } else {
            call.as_ref().and_then(|call| call.as_ref().err().map(|unread| unread.word))
        };
        if action.error.is_some() {
            return action;
        }
        let call = call.and_then(Result::ok);
        let number = match (found, &call) {
            (Some((_, Found::Mcp(tools))), Some(call)) => tools.find(call),
            (Some((_, Found::Target(number))), _) => Some(number),
            _ => None,
        };
        if let Some(target) = number.and_then(|number| self.targets.get(number)) {
            self.fill(&mut action, target, http, call.as_ref());
        }
        action
    }

    fn fill(&self, action: &mut Action, target: &Target, http: &Http, call: Option<&Call>) {
        let value = |at: &usize| http.url.segments.get(*at).cloned().unwrap_or_default();
        action.params = target.params.iter().map(|(at, name)| (Arc::clone(name), value(at))).collect();
        if let Some(rule) = &target.resource {
            match rule.read(&action.params, http, call) {
                Ok(resource) => action.resource = Some(resource),
                Err(word) => {
                    action.error = Some(word);
                    return;
                }
            }
        }
        if target.entry.class != Class::Read {
            action.args_digest = match (call, &http.parsed_body) {
                (Some(call), _) => Some(canonical::digest(&call.arguments)),
                (None, Body::Parsed(body)) => Some(canonical::digest(body)),
                (None, _) => None,
            };
        }
        action.entry = Some(Arc::clone(&target.entry));
    }

    /// The narrowest match of host, path and method.
    fn by_path(&self, http: &Http, is_grpc: bool) -> Option<(Narrowness, Found<'_>)> {
        let mut best: Option<(Narrowness, Found<'_>)> = None;
        self.matches(http, is_grpc, &mut |width, found| {
            if best.is_none_or(|(narrowest, _)| width > narrowest) {
                best = Some((width, found));
            }
        });
        best
    }

    /// Every match of host, path and method.
    fn matches<'c>(&'c self, http: &Http, is_grpc: bool, take: &mut impl FnMut(Narrowness, Found<'c>)) {
        let segments = http.url.segments.iter().map(String::as_str);
        let mut look = |tree: &'c Tree<Leaf>, by_host: usize| {
            tree.visit(segments.clone(), &mut |leaf, width| {
                if let Some((found, more)) = leaf.find(&http.method, is_grpc) {
                    take((width, by_host + more), found);
                }
            });
        };
        look(&self.any_host, 0);
        if !self.hosts.is_empty()
            && let Some(tree) = self.hosts.get(normal_host(&http.host).as_str())
        {
            look(tree, 1);
        }
    }

    /// Which matches were considered for a request, the narrowest first, in words.
    pub fn explain(&self, request: &Request) -> Vec<String> {
        let Some(http) = &request.http else { return Vec::new() };
        let is_grpc = request.protocol() == Protocol::Grpc;
        if self.is_empty() {
            return Vec::new();
        }
        let action = self.find(request);
        let mut lines = Vec::new();
        match (&action.entry, action.error) {
            (Some(entry), _) => lines.push(format!("action {}", entry.name)),
            (None, Some(error)) => lines.push(format!("no known action: {error}")),
            (None, None) => lines.push("no known action: no entry matches".to_owned()),
        }
        let mut seen: Vec<(Narrowness, Found<'_>)> = Vec::new();
        self.matches(http, is_grpc, &mut |width, found| seen.push((width, found)));
        seen.sort_by(|(a, _), (b, _)| b.cmp(a));
        for (width, found) in seen {
            let (Width { literal, segments, .. }, more) = width;
            let what = match found {
                Found::Target(number) => {
                    self.targets.get(number).map(|target| format!("{}: {}", target.entry.name, target.shown)).unwrap_or_default()
                }
                Found::Mcp(_) => "an endpoint of MCP, decided by method and tool".to_owned(),
            };
            lines.push(format!("matches {what} ({literal} of {segments} segments written out, {more} more conditions)"));
        }
        lines
    }
}

impl Leaf {
    /// What a method finds here, and how much was asked beside host and path.
    fn find(&self, method: &str, is_grpc: bool) -> Option<(Found<'_>, usize)> {
        if let Some(tools) = &self.mcp {
            return Some((Found::Mcp(tools), 1));
        }
        let grpc = self.grpc.filter(|_| is_grpc && method == "POST");
        let by_method = grpc.or_else(|| self.methods.get(method).copied()).map(|number| (Found::Target(number), 1));
        by_method.or_else(|| self.any_method.map(|number| (Found::Target(number), 0)))
    }
}

/// Lower case, without port and final dot. An IPv6 address keeps its brackets.
fn normal_host(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) => {
            name
        }
        _ => &host,
    };
    without_port.strip_suffix('.').unwrap_or(without_port).to_owned()
}

/// Whether the whole body is here, as far as that can be told.
fn is_complete(http: &Http) -> bool {
    let have = if http.raw_body.is_empty() { http.body.len() } else { http.raw_body.len() };
    let announced = http.headers.get("content-length").map(str::parse::<usize>);
    http.parsed_body != Body::Truncated
        && http.headers.get("x-envoy-auth-partial-body") != Some("true")
        && announced.is_none_or(|length| length.is_ok_and(|length| length <= have))
        && !(have == 0 && http.headers.get("transfer-encoding").is_some())
}

#[cfg(test)]
mod tests;
