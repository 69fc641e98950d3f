//! An outcome put to Envoy: `Outcome` → `CheckResponse`. What a caller is told is chosen here and nowhere else.
//!
//! Envoy takes a response without a status for an allow, and the meaning of a header without `append` has changed
//! between its versions. So one function makes every response ([`respond`]) and one every header ([`header`]), and both
//! leave nothing unset. What the values may be was checked in `policy/decision`.

use std::{borrow::Cow, collections::HashMap};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{HeaderValue, HeaderValueOption, QueryParameter, header_value_option::HeaderAppendAction},
        service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse, check_response::HttpResponse},
        r#type::v3::HttpStatus,
    },
    google::{
        protobuf::{BoolValue, ListValue, Struct, Value as ProtoValue, value::Kind},
        rpc,
    },
};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::{
    action::Mcp,
    authorizer::{self, Challenge},
    config::Compat,
    grant::request_token::RequestToken,
    policy::decision::{self, Answer, Outcome},
    request::{Headers, Request},
    verdict::{Decision, Mode, Protocol, Reason},
};

/// The decision id, to the client on a denial, to the upstream on an allow.
const DECISION_ID: &str = "x-doorward-decision-id";

/// RFC 9110 §11.6.1.
const CHALLENGE: &str = "www-authenticate";

/// Names with this prefix are ours: a client's are never passed on.
const OWN_PREFIX: &str = "x-doorward-";

/// Bounds the life of the upstream stream, in milliseconds; Envoy's router takes it from the client too, and reads 0
/// as no bound (facts B.6).
const STREAM_DURATION: &str = "x-envoy-upstream-stream-duration-ms";

const XFCC: &str = "x-forwarded-client-cert";

/// Envoy clips its timers to this many seconds; a number that does not fit would be no bound at all.
const LONGEST_LEASE_S: u64 = i32::MAX as u64;

/// Everything but the unreserved characters of RFC 3986 section 2.3, which is what Envoy calls URL-encoded.
const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What ends or splits a key. Other characters stay, as a key must equal the client's spelling to replace it: `a[]`.
const QUERY_KEY: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'&').add(b'+').add(b';').add(b'<').add(b'=').add(b'>');

/// What the configuration says about answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings<'a> {
    pub compat: Option<Compat>,
    pub decision_id_on_allow: bool,
    pub reason_to_caller: bool,
    /// What is told with a 401; none where no tokens are taken.
    pub challenge: Option<&'a Challenge>,
    /// Where grants are asked for.
    pub grants_at: Option<&'a str>,
    /// Take `x-forwarded-client-cert` from what goes to the workload.
    pub remove_xfcc: bool,
}

impl<'a> Settings<'a> {
    pub fn new(settings: &'a authorizer::Settings) -> Self {
        Self {
            compat: settings.compat,
            decision_id_on_allow: settings.answer.decision_id_on_allow,
            reason_to_caller: settings.answer.reason,
            challenge: settings.challenge.as_ref(),
            grants_at: settings.grants_at.as_deref(),
            remove_xfcc: false,
        }
    }
}

/// Facts about the request that shape the answer.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    pub protocol: Protocol,
    /// The client's headers; absent for a request that could not be decoded.
    pub headers: Option<&'a Headers>,
    /// The call inside an MCP request, which is refused in JSON-RPC.
    pub mcp: Option<&'a Mcp>,
}

impl<'a> Shape<'a> {
    /// Of a request that could not be decoded. A TCP filter ignores what is said to HTTP.
    pub const UNKNOWN: Shape<'static> = Shape { protocol: Protocol::Http, headers: None, mcp: None };

    pub fn of(request: &'a Request) -> Self {
        Self { protocol: request.protocol(), headers: request.http.as_ref().map(|http| &http.headers), mcp: None }
    }
}

/// What goes back to Envoy.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one a call, it is nearly always a response, and it is sent at once")]
pub enum Reply {
    Response(CheckResponse),
    /// Only under compat, where opa-envoy-plugin fails too. Envoy takes it for an outage, and may let the call through
    /// by `failure_mode_allow`.
    Error(tonic::Status),
}

/// Puts an outcome to Envoy. In `observe` every outcome is let through, and only an allow is carried out.
pub fn encode(outcome: &Outcome, shape: &Shape<'_>, settings: &Settings<'_>) -> Reply {
    let decision = match (outcome.is_allow(), outcome.mode) {
        (true, _) | (false, Mode::Observe) => Decision::Allow,
        (false, Mode::Enforce) if settings.compat.is_some() && outcome.fails_in_plugin => {
            return Reply::Error(tonic::Status::unknown(plugin_error(outcome)));
        }
        (false, Mode::Enforce) => Decision::Deny,
    };
    let response = match decision {
        _ if shape.protocol == Protocol::Tcp => None,
        Decision::Allow => {
            // As the plugin does: no message for a plain `true`, an empty one for an overruled denial.
            let ok = allowed(outcome, shape, settings);
            (!outcome.is_allow() || ok != OkHttpResponse::default()).then_some(HttpResponse::OkResponse(ok))
        }
        Decision::Deny => Some(HttpResponse::DeniedResponse(denied(outcome, shape, settings))),
    };
    let code = match decision {
        Decision::Allow => rpc::Code::Ok,
        // What the plugin answers when a decision cannot be logged. Envoy denies.
        Decision::Deny if settings.compat.is_some() && outcome.reason == Reason::RecordUnavailable => rpc::Code::Unknown,
        Decision::Deny => rpc::Code::PermissionDenied,
    };
    Reply::Response(respond(code, metadata(outcome), response))
}

// INVARIANT: every response is made here, with a status.
fn respond(code: rpc::Code, dynamic_metadata: Struct, http_response: Option<HttpResponse>) -> CheckResponse {
    CheckResponse {
        status: Some(rpc::Status { code: code.into(), ..rpc::Status::default() }),
        dynamic_metadata: Some(dynamic_metadata),
        http_response,
    }
}

fn allowed(outcome: &Outcome, shape: &Shape<'_>, settings: &Settings<'_>) -> OkHttpResponse {
    let mut response = OkHttpResponse::default();
    if let Some(limit) = stream_limit(outcome, settings) {
        response.headers.push(header(STREAM_DURATION, limit.to_string(), Placing::Replace));
    }
    if settings.decision_id_on_allow {
        response.headers.push(header(DECISION_ID, outcome.id.to_string(), Placing::Replace));
    }
    if let Some(answer) = outcome.carried().filter(|_| outcome.is_allow()) {
        carry_out(answer, settings, &mut response);
    }
    remove_reserved(shape, settings, &mut response);
    response
}

/// Adds what the policy asks for to our own headers, which win.
fn carry_out(answer: &Answer, settings: &Settings<'_>, response: &mut OkHttpResponse) {
    let compat = settings.compat.is_some();
    let own = response.headers.len();
    for (at, line) in answer.headers.iter().enumerate() {
        if is_set(response.headers.iter().take(own), &line.name) {
            continue;
        }
        let repeated = !compat && answer.headers.iter().take(at).any(|before| before.name.eq_ignore_ascii_case(&line.name));
        let placing = if repeated { Placing::Append } else { Placing::Replace };
        response.headers.push(line_of(line, placing, settings));
    }
    response.response_headers_to_add.extend(answer.response_headers.iter().map(|line| line_of(line, Placing::Append, settings)));
    response
        .headers_to_remove
        .extend(answer.remove_headers.iter().filter(|name| !is_set(response.headers.iter().take(own), name)).cloned());
    let encoded = |text, set| if compat { Cow::Borrowed(text) } else { Cow::from(utf8_percent_encode(text, set)) };
    response.query_parameters_to_set.extend(answer.query_set.iter().map(|(key, value)| QueryParameter {
        key: encoded(key, QUERY_KEY).into_owned(),
        value: encoded(value, QUERY_VALUE).into_owned(),
    }));
    response.query_parameters_to_remove.extend(answer.query_remove.iter().map(|key| encoded(key, QUERY_KEY).into_owned()));
}

/// Removes the client's copies of what only we may say. Envoy removes after it sets, so what is set stays unlisted.
fn remove_reserved(shape: &Shape<'_>, settings: &Settings<'_>, response: &mut OkHttpResponse) {
    let is_reserved = |name: &str| {
        let ours = name.get(..OWN_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(OWN_PREFIX));
        ours || (settings.compat.is_none() && name.eq_ignore_ascii_case(STREAM_DURATION))
            || (settings.remove_xfcc && name.eq_ignore_ascii_case(XFCC))
    };
    // The client's names differ from each other, so only the policy's list can have one already.
    let by_policy = response.headers_to_remove.len();
    let mut remove = |name: &str| {
        if !is_reserved(name) || is_set(response.headers.iter(), name) {
            return;
        }
        if !response.headers_to_remove.iter().take(by_policy).any(|other| other.eq_ignore_ascii_case(name)) {
            response.headers_to_remove.push(name.to_owned());
        }
    };
    match shape.headers {
        Some(headers) => headers.iter().for_each(|(name, _)| remove(name)),
        None => [DECISION_ID, STREAM_DURATION, XFCC].into_iter().for_each(remove),
    }
}

/// How many milliseconds a stream may live: the lease, or less if the policy wrote the header itself. None in
/// `observe`, which ends nothing; under compat only if the policy gave a lease.
fn stream_limit(outcome: &Outcome, settings: &Settings<'_>) -> Option<u64> {
    let answer = outcome.carried().filter(|_| outcome.is_allow() && outcome.mode == Mode::Enforce)?;
    if settings.compat.is_some() && answer.lease.is_none() {
        return None;
    }
    let lease = u64::try_from(outcome.lease?.as_millis()).unwrap_or(u64::MAX);
    let written = answer.headers.iter().filter(|line| line.name.eq_ignore_ascii_case(STREAM_DURATION));
    let shortest = written.filter_map(|line| line.value.parse().ok()).filter(|limit| *limit > 0).fold(lease, u64::min);
    Some(shortest.clamp(1, LONGEST_LEASE_S * 1000))
}

fn denied(outcome: &Outcome, shape: &Shape<'_>, settings: &Settings<'_>) -> DeniedHttpResponse {
    let answer = outcome.carried();
    let unreadable = outcome.reason == Reason::RequestParseError;
    let code = match answer.and_then(|answer| answer.status) {
        _ if unreadable => 400,
        Some(code) => code,
        None if settings.challenge.is_some() && outcome.reason.is_about_a_token() => 401,
        None if shape.mcp.is_some_and(|mcp| mcp.refuse_with_200) => 200,
        None => 403,
    };
    // What a policy writes itself is not ours to wrap.
    let mcp = shape.mcp.filter(|_| answer.is_none_or(|answer| answer.body.is_none()));
    let body = match answer {
        _ if let Some(mcp) = mcp => json_rpc_error(outcome, mcp, settings),
        _ if unreadable && (settings.compat.is_some() || settings.reason_to_caller) => {
            format!("request_parse_error: {}", outcome.detail.as_deref().unwrap_or_default())
        }
        Some(Answer { body: Some(body), .. }) => body.clone(),
        _ if let Some(request) = &outcome.request => access_request(outcome, request, settings),
        Some(Answer { reason: Some(reason), .. }) if settings.reason_to_caller => reason.clone(),
        _ => String::new(),
    };
    let is_json = mcp.is_some() || (outcome.request.is_some() && answer.is_none_or(|answer| answer.body.is_none()));
    let policy = answer.map(|answer| answer.headers.as_slice()).unwrap_or_default();
    let kind = is_json.then(|| header("content-type", "application/json".to_owned(), Placing::Replace));
    let headers = std::iter::once(header(DECISION_ID, outcome.id.to_string(), Placing::Replace))
        .chain(kind)
        .chain(challenge(outcome, code, settings).map(|text| header(CHALLENGE, text, Placing::Replace)))
        .chain(
            policy
                .iter()
                .filter(|line| !line.name.eq_ignore_ascii_case(DECISION_ID))
                .map(|line| line_of(line, Placing::Replace, settings)),
        )
        .collect();
    DeniedHttpResponse { status: Some(HttpStatus { code: i32::from(code) }), headers, body }
}

/// What a client should know to do better (RFC 6750 §3, RFC 9449 §7.1, RFC 9728 §5.1): that its token is no good, that it
/// is good for less, or where to get one. Nothing of why.
fn challenge(outcome: &Outcome, code: u16, settings: &Settings<'_>) -> Option<String> {
    let known = settings.challenge?;
    let answer = outcome.carried();
    let said = |answer: &Answer| answer.headers.iter().any(|line| line.name.eq_ignore_ascii_case(CHALLENGE));
    if answer.is_some_and(said) {
        return None;
    }
    let mut parts = match (outcome.reason, answer.and_then(|answer| answer.scope.as_deref())) {
        (Reason::DpopProof, _) => vec![r#"DPoP error="invalid_dpop_proof""#.to_owned()],
        (reason, _) if reason.is_about_a_token() => vec![r#"Bearer error="invalid_token""#.to_owned()],
        (_, Some(scope)) => vec![r#"Bearer error="insufficient_scope""#.to_owned(), format!(r#"scope="{scope}""#)],
        (_, None) if code == 401 => vec!["Bearer".to_owned()],
        (_, None) => return None,
    };
    if let Some(metadata) = &known.resource_metadata {
        parts.push(format!(r#"resource_metadata="{metadata}""#));
    }
    Some(parts.join(", ").replacen("Bearer, ", "Bearer ", 1))
}

/// The refusal of an MCP call, in the numbers that AuthZEN's mapping for MCP gives: refused, not understood, or not decided.
fn json_rpc_error(outcome: &Outcome, mcp: &Mcp, settings: &Settings<'_>) -> String {
    let (code, message) = match outcome.reason {
        Reason::RequestParseError | Reason::TierUnknownAction | Reason::TierBodyIncomplete | Reason::AmbiguousPath => {
            (-32602, "the call cannot be read in one way")
        }
        Reason::NoPolicy
        | Reason::PolicyError
        | Reason::PolicyTimeout
        | Reason::PolicyLimit
        | Reason::PolicyPanic
        | Reason::DeadlineExceeded
        | Reason::Overloaded
        | Reason::RecordUnavailable
        | Reason::SessionUnavailable
        | Reason::InternalError => (-32603, "the call could not be decided"),
        _ => (-32001, "the call is not allowed"),
    };
    let said = outcome.carried().and_then(|answer| answer.reason.as_deref()).filter(|_| settings.reason_to_caller);
    // An id is JSON text already, as the client wrote it.
    let id = mcp.request_id.as_deref().and_then(|id| serde_json::from_str(id).ok()).unwrap_or(Value::Null);
    let mut data = json!({"decision_id": outcome.id.to_string()});
    if let (Some(request), Some(members)) = (&outcome.request, data.as_object_mut()) {
        members.insert("access_request".to_owned(), offer(request, settings));
    }
    let error = json!({"code": code, "message": said.unwrap_or(message), "data": data});
    json!({"jsonrpc": "2.0", "id": id, "error": error}).to_string()
}

/// The body of a denial that a grant may be asked for after, in the fields of AuthZEN's access request profile.
fn access_request(outcome: &Outcome, request: &RequestToken, settings: &Settings<'_>) -> String {
    let mut context = json!({"access_request": offer(request, settings)});
    let said = outcome.carried().and_then(|answer| answer.reason.as_deref()).filter(|_| settings.reason_to_caller);
    if let (Some(said), Some(members)) = (said, context.as_object_mut()) {
        members.insert("reason".to_owned(), json!(said));
    }
    json!({"decision": false, "evaluation_id": outcome.id.to_string(), "context": context}).to_string()
}

/// What a grant is asked for with: it permits nothing.
fn offer(request: &RequestToken, settings: &Settings<'_>) -> Value {
    let RequestToken { text, expires_at } = request;
    let mut offer = json!({"binding_token": text, "expires_at": expires_at.rfc3339()});
    if let (Some(endpoint), Some(members)) = (settings.grants_at, offer.as_object_mut()) {
        members.insert("endpoint".to_owned(), json!(endpoint));
    }
    offer
}

/// The text of the gRPC error that opa-envoy-plugin would answer.
fn plugin_error(outcome: &Outcome) -> String {
    let detail = outcome.detail.as_deref();
    match outcome.reason {
        Reason::DeadlineExceeded => {
            format!("check request timed out before query execution: {}", detail.unwrap_or("context deadline exceeded"))
        }
        reason => detail.unwrap_or(reason.as_str()).to_owned(),
    }
}

/// How a header goes into its list. Facts B.3 has what each version of Envoy makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placing {
    /// Instead of what is there. In a denial each entry is sent, also several of one name.
    Replace,
    /// Beside what is there: joined with a comma to the upstream, a line of its own to the client.
    Append,
}

fn line_of(line: &decision::Header, placing: Placing, settings: &Settings<'_>) -> HeaderValueOption {
    let option = header(&line.name, line.value.clone(), placing);
    // The plugin does not ask for an empty value to be kept.
    HeaderValueOption { keep_empty_value: line.value.is_empty() && settings.compat.is_none(), ..option }
}

// INVARIANT: every header is made here, with `append` and `append_action` in agreement.
#[expect(deprecated, reason = "`append` is what decides for every version of Envoy; unset, its meaning differs")]
fn header(name: &str, value: String, placing: Placing) -> HeaderValueOption {
    let action = match placing {
        Placing::Replace => HeaderAppendAction::OverwriteIfExistsOrAdd,
        Placing::Append => HeaderAppendAction::AppendIfExistsOrAdd,
    };
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value, raw_value: Vec::new() }),
        append: Some(BoolValue { value: placing == Placing::Append }),
        append_action: action.into(),
        keep_empty_value: false,
    }
}

fn is_set<'a>(mut headers: impl Iterator<Item = &'a HeaderValueOption>, name: &str) -> bool {
    headers.any(|option| option.header.as_ref().is_some_and(|header| header.key.eq_ignore_ascii_case(name)))
}

/// The policy's metadata with the decision id, and in `observe` what would have been enforced.
fn metadata(outcome: &Outcome) -> Struct {
    let policy = outcome.carried().map(|answer| &answer.metadata);
    let mut fields: HashMap<String, ProtoValue> =
        policy.into_iter().flatten().map(|(name, value)| (name.clone(), proto_value(value, decision::METADATA_DEPTH))).collect();
    fields.insert("decision_id".to_owned(), text(outcome.id.to_string()));
    if outcome.mode == Mode::Observe {
        let observed = [("decision", outcome.decision.as_str()), ("reason", outcome.reason.as_str())];
        let observed = observed.into_iter().map(|(name, word)| (name.to_owned(), text(word.to_owned()))).collect();
        let kind = Kind::StructValue(Struct { fields: observed });
        fields.insert("doorward".to_owned(), ProtoValue { kind: Some(kind) });
    }
    Struct { fields }
}

fn text(text: String) -> ProtoValue {
    ProtoValue { kind: Some(Kind::StringValue(text)) }
}

/// Reading an answer has refused what does not fit; should it be there all the same, null takes its place.
fn proto_value(value: &Value, levels: usize) -> ProtoValue {
    let kind = match value {
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(number) => number.as_f64().map_or(Kind::NullValue(0), Kind::NumberValue),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(items) if levels > 0 => {
            Kind::ListValue(ListValue { values: items.iter().map(|item| proto_value(item, levels - 1)).collect() })
        }
        Value::Object(fields) if levels > 0 => Kind::StructValue(Struct {
            fields: fields.iter().map(|(name, value)| (name.clone(), proto_value(value, levels - 1))).collect(),
        }),
        Value::Null | Value::Array(_) | Value::Object(_) => Kind::NullValue(0),
    };
    ProtoValue { kind: Some(kind) }
}

#[cfg(test)]
mod tests;
