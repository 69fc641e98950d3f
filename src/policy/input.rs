//! The input document: what opa-envoy-plugin shows to policy, and the keys Doorward adds. A key that is not known is
//! absent, never null. It is described once, here, and taken down twice: as engine values of what the policy can read
//! (`value`), and as masked JSON of the whole for the record (`json`). The case test `d36_to_d38` holds the whole in
//! a snapshot.

mod json;
mod known;
mod names;
mod value;

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use regorus::Value;
use serde_json::Map;

pub(super) use self::value::from_json;
use self::{
    known::{action, grant, risk_members, session, state, workload},
    names::{NAMES, Name},
};
use super::{PolicySet, wanted::Wanted};
use crate::{
    clock::Now,
    context::Context,
    identity::{
        Forwarded, Peer, X509,
        token::Token,
        tokens::{Bound, Presented},
    },
    json::Shown,
    request::{Address, Body, Endpoint, Http, Metadata, Request, Timestamp, UrlView},
    state::Epoch,
    verdict::Reason,
};

/// The engine's input for one policy.
#[derive(Debug, Clone)]
pub struct Input {
    pub(super) value: Value,
    /// The time that the evaluation takes for now, in nanoseconds since the Unix epoch.
    pub(super) now_ns: i64,
}

impl Input {
    /// As much of the document as `policy` can read.
    pub fn build(facts: &Facts<'_>, policy: &PolicySet) -> Self {
        Self::of(facts, policy.wanted())
    }

    /// A document that is ready-made.
    pub fn of_json(document: &serde_json::Value, now: Now) -> Self {
        Self { value: from_json(document), now_ns: now.nanoseconds() }
    }

    fn of(facts: &Facts<'_>, wanted: &Wanted) -> Self {
        let mut sink = value::Members::new(wanted);
        document(facts, &mut sink);
        Self { value: sink.into(), now_ns: facts.now.nanoseconds() }
    }
}

/// What one input is made of.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub request: &'a Request,
    pub peer: Option<&'a Peer>,
    /// What proxies on the way have said of the callers before the peer, and nobody has checked.
    pub forwarded: &'a [Forwarded],
    /// Why there is no peer although a certificate was sent.
    pub peer_error: Option<Reason>,
    /// Verified credentials besides the peer's certificate.
    pub presented: &'a Presented,
    /// Who acts.
    pub principal: Option<&'a str>,
    /// The action, and what is known of the caller beyond its credentials.
    pub context: &'a Context,
    pub here: &'a Here,
    /// Our own SPIFFE ID, where we have an SVID.
    pub own_id: Option<&'a str>,
    /// The control state that the call is decided under; absent where nobody keeps one.
    pub epoch: Option<Epoch>,
    pub now: Now,
}

impl Facts<'_> {
    /// The whole document as JSON, with some values replaced. `replace` is asked about each member of each object: with
    /// the key of the enclosing object (empty at the top), the member's own key, and its value where that is a string.
    /// An array is not asked about, each of its elements is, under the array's own two keys. What it returns stands in
    /// the place of the value.
    pub fn masked(&self, replace: &impl Fn(&str, &str, Option<&str>) -> Option<String>) -> Vec<u8> {
        let mut sink = json::Members::new(replace);
        document(self, &mut sink);
        sink.end()
    }
}

/// `input.self`: where this doorward stands. Made once for each listener.
#[derive(Debug, Clone)]
pub struct Here(Vec<(&'static str, String)>);

impl Here {
    /// The value of a key, where it is known.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| *name == key).map(|(_, value)| value.as_str())
    }

    /// From `(key, value)` pairs; pairs without a value are left out.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'static str, Option<&'a str>)>) -> Self {
        Self(pairs.into_iter().filter_map(|(key, value)| Some((key, value?.to_owned()))).collect())
    }
}

/// Takes down the members of an object.
trait Sink: Sized {
    /// A member that is an object, of what `fill` puts into it.
    fn object(&mut self, name: &Name, fill: impl FnOnce(&mut Self));
    /// A member that is an array of objects, one for each item.
    fn objects<T>(&mut self, name: &Name, items: &[T], fill: impl Fn(&T, &mut Self));
    /// A member that is an object of objects, one for each name.
    fn each<'a, T: 'a>(&mut self, name: &Name, items: impl Iterator<Item = (&'a str, &'a T)>, fill: impl Fn(&T, &mut Self));
    /// Members that are the same each time something is shown: `shown` goes with it, and keeps them as the record has them.
    fn constant(&mut self, shown: &Shown, fill: impl FnOnce(&mut Self));
    /// A member that is an array of strings.
    fn texts<'a>(&mut self, name: &Name, items: impl Iterator<Item = &'a str>);
    fn text(&mut self, name: &Name, value: &str);
    /// A text that costs something to make.
    fn made(&mut self, name: &Name, make: impl FnOnce() -> String);
    fn number(&mut self, name: &Name, value: i64);
    fn flag(&mut self, name: &Name, value: bool);
    /// Any JSON.
    fn json(&mut self, name: &Name, value: &serde_json::Value);
    /// A member that is an object with names that the request brings.
    fn map<'a>(&mut self, name: &Name, entries: impl Iterator<Item = (&'a str, &'a str)>);
    /// The same, each value an array of strings.
    fn lists(&mut self, name: &Name, entries: &BTreeMap<String, Vec<String>>);
    /// The same, each value any JSON.
    fn members(&mut self, name: &Name, entries: &Map<String, serde_json::Value>);

    /// Leaves out an empty string, as opa-envoy-plugin shows populated fields only.
    fn some_text(&mut self, name: &Name, text: &str) {
        if !text.is_empty() {
            self.text(name, text);
        }
    }

    fn some_number(&mut self, name: &Name, number: i64) {
        if number != 0 {
            self.number(name, number);
        }
    }

    fn some_map(&mut self, name: &Name, map: &BTreeMap<String, String>) {
        if !map.is_empty() {
            self.map(name, map.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        }
    }
}

fn document(facts: &Facts<'_>, sink: &mut impl Sink) {
    let Facts { request, peer, forwarded, peer_error, presented, principal, context, here, own_id, epoch, now } = *facts;
    sink.object(&NAMES.attributes, |sink| attributes(request, sink));
    sink.object(&NAMES.version, |sink| {
        sink.text(&NAMES.ext_authz, "v3");
        sink.text(&NAMES.encoding, "protojson");
    });
    if let Some(source) = &request.source {
        sink.some_text(&NAMES.source_principal, &source.principal);
    }
    parsed(request.http.as_ref(), sink);
    if let Some(peer) = peer {
        sink.object(&NAMES.peer, |sink| peer_members(peer, forwarded, request.source.as_ref(), now, sink));
    }
    if let Some(principal) = principal {
        sink.text(&NAMES.principal, principal);
    }
    credentials(presented, sink);
    if !context.signals.is_empty() {
        sink.objects(&NAMES.signals, &context.signals, |signal, sink| {
            sink.text(&NAMES.name, signal.name.as_str());
            sink.made(&NAMES.since, || Now { ns: signal.since_ns }.rfc3339());
            sink.text(&NAMES.detail, &signal.detail);
        });
    }
    if let Some(reason) = peer_error {
        sink.text(&NAMES.peer_error, reason.as_str());
    }
    let own_id = own_id.map(|id| (NAMES.spiffe_id.text, id));
    sink.map(&NAMES.self_, here.0.iter().map(|(key, value)| (*key, value.as_str())).chain(own_id));
    sink.object(&NAMES.action, |sink| action(&context.action, context, request, sink));
    if let Some(view) = &context.view {
        sink.object(&NAMES.session, |sink| session(view, sink));
    }
    if let Some(task) = &context.task {
        sink.text(&NAMES.task, task);
    }
    if !context.grants.is_empty() {
        sink.objects(&NAMES.grants, &context.grants, |held, sink| grant(held, context, sink));
    }
    if let Some(entry) = &context.workload {
        sink.object(&NAMES.workload, |sink| workload(entry.as_deref(), sink));
    }
    if let Some(risk) = &context.risk {
        sink.object(&NAMES.risk, |sink| risk_members(risk, sink));
    }
    if let Some(epoch) = epoch {
        sink.object(&NAMES.state, |sink| state(epoch, sink));
    }
    if let Some(http) = &request.http {
        sink.object(&NAMES.url, |sink| url(&http.url, sink));
    }
    sink.object(&NAMES.now, |sink| {
        sink.number(&NAMES.ns, now.nanoseconds());
        sink.made(&NAMES.rfc3339, || now.rfc3339());
    });
}

fn attributes(request: &Request, sink: &mut impl Sink) {
    if let Some(source) = &request.source {
        sink.object(&NAMES.source, |sink| endpoint(source, sink));
    }
    if let Some(destination) = &request.destination {
        sink.object(&NAMES.destination, |sink| endpoint(destination, sink));
    }
    if request.has_request {
        sink.object(&NAMES.request, |sink| {
            if let Some(time) = request.time {
                sink.object(&NAMES.time, |sink| timestamp(time, sink));
            }
            if let Some(part) = &request.http {
                sink.object(&NAMES.http, |sink| http(part, sink));
            }
        });
    }
    sink.some_map(&NAMES.context_extensions, &request.context_extensions);
    if let Some(context) = &request.metadata {
        sink.object(&NAMES.metadata_context, |sink| metadata(context, sink));
    }
    if let Some(context) = &request.route_metadata {
        sink.object(&NAMES.route_metadata_context, |sink| metadata(context, sink));
    }
    if let Some(sni) = &request.sni {
        sink.object(&NAMES.tls_session, |sink| sink.some_text(&NAMES.sni, sni));
    }
}

fn timestamp(time: Timestamp, sink: &mut impl Sink) {
    sink.some_number(&NAMES.seconds, time.seconds);
    sink.some_number(&NAMES.nanos, i64::from(time.nanos));
}

fn endpoint(endpoint: &Endpoint, sink: &mut impl Sink) {
    if let Some(at) = &endpoint.address {
        sink.object(&NAMES.address, |sink| address(at, sink));
    }
    sink.some_text(&NAMES.service, &endpoint.service);
    sink.some_map(&NAMES.labels, &endpoint.labels);
    sink.some_text(&NAMES.principal, &endpoint.principal);
    sink.some_text(&NAMES.certificate, &endpoint.certificate);
}

fn address(address: &Address, sink: &mut impl Sink) {
    match address {
        Address::Socket { address, port, named_port, protocol, resolver, ipv4_compat } => {
            sink.object(&NAMES.socket_address, |sink| {
                sink.some_text(&NAMES.address, address);
                if let Some(port) = port {
                    sink.number(&NAMES.port_value, i64::from(*port));
                }
                sink.some_text(&NAMES.named_port, named_port);
                sink.some_number(&NAMES.protocol, i64::from(*protocol));
                sink.some_text(&NAMES.resolver_name, resolver);
                if *ipv4_compat {
                    sink.flag(&NAMES.ipv4_compat, true);
                }
            });
        }
        Address::Pipe { path, mode } => sink.object(&NAMES.pipe, |sink| {
            sink.some_text(&NAMES.path, path);
            sink.some_number(&NAMES.mode, i64::from(*mode));
        }),
        Address::Internal { listener, endpoint_id } => sink.object(&NAMES.envoy_internal_address, |sink| {
            sink.some_text(&NAMES.server_listener_name, listener);
            sink.some_text(&NAMES.endpoint_id, endpoint_id);
        }),
        Address::Unset => {}
    }
}

fn metadata(context: &Metadata, sink: &mut impl Sink) {
    if !context.filter.is_empty() {
        sink.members(&NAMES.filter_metadata, &context.filter);
    }
    if !context.typed.is_empty() {
        sink.members(&NAMES.typed_filter_metadata, &context.typed);
    }
}

fn http(http: &Http, sink: &mut impl Sink) {
    sink.some_text(&NAMES.id, &http.id);
    sink.some_text(&NAMES.method, &http.method);
    if http.headers.iter().next().is_some() {
        sink.map(&NAMES.headers, http.headers.iter());
    }
    if let Some(list) = http.headers.raw() {
        sink.object(&NAMES.header_map, |sink| header_map(list, sink));
    }
    sink.some_text(&NAMES.path, &http.path);
    sink.some_text(&NAMES.host, &http.host);
    sink.some_text(&NAMES.scheme, &http.scheme);
    sink.some_text(&NAMES.query, &http.query);
    sink.some_text(&NAMES.fragment, &http.fragment);
    sink.some_number(&NAMES.size, http.size);
    sink.some_text(&NAMES.protocol, &http.protocol);
    sink.some_text(&NAMES.body, &http.body);
    if !http.raw_body.is_empty() {
        sink.made(&NAMES.raw_body, || BASE64.encode(&http.raw_body));
    }
}

/// The list of raw headers as Envoy sent it, values in base64. The key comes first: a mask goes by it.
fn header_map(list: &[(String, Vec<u8>)], sink: &mut impl Sink) {
    if list.is_empty() {
        return;
    }
    sink.objects(&NAMES.headers, list, |(name, value), sink| {
        sink.some_text(&NAMES.key, name);
        if !value.is_empty() {
            sink.made(&NAMES.raw_value, || BASE64.encode(value));
        }
    });
}

/// `parsed_path`, `parsed_query`, `parsed_body` and `truncated_body`, which a TCP check has too.
fn parsed(http: Option<&Http>, sink: &mut impl Sink) {
    match http {
        Some(http) => {
            sink.texts(&NAMES.parsed_path, http.parsed_path.iter().map(String::as_str));
            sink.lists(&NAMES.parsed_query, &http.parsed_query);
        }
        None => {
            sink.texts(&NAMES.parsed_path, std::iter::once(""));
            sink.object(&NAMES.parsed_query, |_| {});
        }
    }
    let body = http.map_or(&Body::None, |http| &http.parsed_body);
    match body {
        Body::Parsed(value) => sink.json(&NAMES.parsed_body, value),
        Body::None | Body::Truncated => sink.json(&NAMES.parsed_body, &serde_json::Value::Null),
        Body::Skipped => return,
    }
    sink.flag(&NAMES.truncated_body, *body == Body::Truncated);
}

fn peer_members(peer: &Peer, forwarded: &[Forwarded], source: Option<&Endpoint>, now: Now, sink: &mut impl Sink) {
    sink.text(&NAMES.spiffe_id, &peer.text);
    sink.text(&NAMES.trust_domain, peer.id.trust_domain_name());
    sink.texts(&NAMES.path, peer.id.path().split('/').filter(|segment| !segment.is_empty()));
    sink.text(&NAMES.evidence, peer.evidence.as_str());
    if let Some(Address::Socket { address, .. }) = source.and_then(|source| source.address.as_ref()) {
        sink.some_text(&NAMES.address, address);
    }
    if let Some(certificate) = &peer.x509 {
        sink.object(&NAMES.x509, |sink| x509(certificate, now, sink));
    }
    if !forwarded.is_empty() {
        sink.objects(&NAMES.forwarded_unverified, forwarded, |element, sink| {
            let Forwarded { by, hash, subject, uri, dns } = element;
            for (name, texts) in [(&NAMES.by, by), (&NAMES.uri, uri), (&NAMES.dns, dns)] {
                if !texts.is_empty() {
                    sink.texts(name, texts.iter().map(String::as_str));
                }
            }
            for (name, text) in [(&NAMES.hash, hash), (&NAMES.subject, subject)] {
                sink.some_text(name, text.as_deref().unwrap_or_default());
            }
        });
    }
}

/// `tokens`, `token` and `delegation`.
fn credentials(presented: &Presented, sink: &mut impl Sink) {
    if !presented.tokens.is_empty() {
        sink.objects(&NAMES.tokens, &presented.tokens, token);
    }
    if let Some(main) = presented.main() {
        sink.object(&NAMES.token, |sink| token(main, sink));
    }
    if let Some(delegation) = &presented.delegation {
        sink.object(&NAMES.delegation, |sink| {
            sink.text(&NAMES.from, delegation.from);
            sink.text(&NAMES.subject, &delegation.subject);
            sink.texts(&NAMES.actors, delegation.actors.iter().map(String::as_str));
            sink.number(&NAMES.depth, i64::try_from(delegation.actors.len()).unwrap_or(i64::MAX));
        });
    }
}

fn token<S: Sink>(bound: &Bound, sink: &mut S) {
    sink.constant(&bound.token.shown, |sink| token_members(&bound.token, sink));
    sink.text(&NAMES.binding, bound.binding.as_str());
}

fn token_members(token: &Token, sink: &mut impl Sink) {
    let Token { kind, issuer, subject, claims, jti, fingerprint, identity, validity, .. } = token;
    sink.text(&NAMES.kind, kind.as_str());
    if let Some(issuer) = issuer {
        sink.text(&NAMES.issuer, issuer);
    }
    sink.text(&NAMES.subject, subject);
    if let Some(kind) = token.subject_kind() {
        sink.text(&NAMES.subject_kind, kind);
    }
    if let Some(identity) = identity {
        sink.text(&NAMES.identity, identity);
    }
    sink.members(&NAMES.claims, claims);
    if let Some(jti) = jti {
        sink.text(&NAMES.jti, jti);
    }
    sink.number(&NAMES.expires_at, validity.until);
    sink.text(&NAMES.fingerprint, fingerprint);
}

fn x509(x509: &X509, now: Now, sink: &mut impl Sink) {
    sink.text(&NAMES.sha256, &x509.sha256);
    sink.text(&NAMES.serial, &x509.serial);
    sink.text(&NAMES.issuer, &x509.issuer);
    sink.number(&NAMES.not_before, x509.not_before);
    sink.number(&NAMES.not_after, x509.not_after);
    sink.number(&NAMES.age_s, now.seconds().saturating_sub(x509.not_before));
    sink.number(&NAMES.lifetime_s, x509.not_after.saturating_sub(x509.not_before));
}

fn url(url: &UrlView, sink: &mut impl Sink) {
    sink.text(&NAMES.path, &url.path);
    sink.texts(&NAMES.segments, url.segments.iter().map(String::as_str));
    sink.flag(&NAMES.ambiguous, !url.reasons.is_empty());
    sink.texts(&NAMES.reasons, url.reasons.iter().map(|reason| reason.as_str()));
}

#[cfg(test)]
mod tests;
