//! The ext_authz filter itself, for HTTP and for TCP: is every call asked about, is the answer obeyed, is what doorward
//! needs sent along, and does the rest fit doorward's own configuration.

use std::time::Duration;

use regex::Regex;

use super::{Code, Report, cluster, route};
use crate::config::{Node, PeerProof};

/// The header that carries a lease; see the router filter of Envoy.
const LEASE: &str = "x-envoy-upstream-stream-duration-ms";
/// A header of ours, removed from what clients send.
const OWN: &str = "x-doorward-decision-id";
/// Longest time for which a call should hang on a doorward that does not answer.
const LONG: Duration = Duration::from_secs(1);

pub(super) fn lint<'a>(report: &mut Report<'a, '_>, filter: &'a Node) {
    let Some(service) = filter.get("grpc_service") else {
        return report.add_field(Code::HttpService, filter, "http_service");
    };
    lint_shared(report, filter, service);
    lint_enabled(report, filter);
    if let Some(code) = filter.at("status_on_error.code").filter(|code| lets_through(code.text())) {
        report.add(Code::StatusOnError, code);
    }
    lint_body(report, filter, service);
    lint_headers(report, filter);
}

/// The filter for TCP, which has no routes, headers or bodies.
pub(super) fn lint_network<'a>(report: &mut Report<'a, '_>, filter: &'a Node) {
    let Some(service) = filter.get("grpc_service") else { return };
    lint_shared(report, filter, service);
    if let Some(by) = filter.get("filter_enabled_metadata") {
        report.add(Code::FilterEnabledByMetadata, by);
    }
}

fn lint_shared<'a>(report: &mut Report<'a, '_>, filter: &'a Node, service: &'a Node) {
    if filter.is_set("failure_mode_allow") {
        let code = if report.compat() { Code::CompatFailsOpen } else { Code::FailureModeAllow };
        report.add_field(code, filter, "failure_mode_allow");
    }
    if filter.is_set("shadow_mode") {
        report.add_field(Code::ShadowMode, filter, "shadow_mode");
    }
    let listener = report.listener(cluster::asked(report, filter));
    let believes = listener.is_some_and(|listener| listener.peer.trust == PeerProof::Principal);
    if !filter.is_set("include_peer_certificate") && !believes {
        report.add_field(Code::PeerCertificateMissing, filter, "include_peer_certificate");
    }
    lint_timeout(report, service);
    if let Some(conditions) = service.at("retry_policy.retry_on").filter(|on| on.text().split(',').any(route::repeats)) {
        report.add(Code::RetryOnReset, conditions);
    }
    cluster::lint(report, service);
}

fn lint_timeout<'a>(report: &mut Report<'a, '_>, service: &'a Node) {
    let Some(node) = service.get("timeout") else { return report.add(Code::TimeoutMissing, service) };
    let Some(timeout) = node.span() else { return };
    let decision = report.config.map(|config| config.limits.decision.duration());
    if timeout.is_zero() {
        report.add(Code::TimeoutUnbounded, node);
    } else if timeout > LONG.max(decision.unwrap_or_default() * 2) {
        report.add(Code::TimeoutExcessive, node);
    } else if let Some(decision) = decision.filter(|decision| timeout <= *decision) {
        let reason = format!("{} (`limits.decision: {decision:?}`)", Code::TimeoutShort.reason());
        let corrected = format!("timeout: {}s", (decision + Duration::from_millis(100)).as_secs_f64());
        report.add_saying(Code::TimeoutShort, node, reason, corrected);
    }
}

fn lint_enabled<'a>(report: &mut Report<'a, '_>, filter: &'a Node) {
    // What is not asked about is then refused.
    if filter.is_set("deny_at_disable.default_value") {
        return;
    }
    if let Some(by) = filter.get("filter_enabled_metadata") {
        report.add(Code::FilterEnabledByMetadata, by);
    }
    let Some(enabled) = filter.get("filter_enabled") else { return };
    let numerator = enabled.number_at("default_value.numerator").unwrap_or_default();
    let denominator = [("TEN_THOUSAND", 1, 10_000), ("MILLION", 2, 1_000_000)];
    let path = "default_value.denominator";
    let all = denominator.iter().find(|(word, number, _)| enabled.is_word(path, word, *number)).map_or(100, |(.., all)| *all);
    if numerator < all || lowered_at_runtime(report, enabled.text_at("runtime_key")) {
        report.add(Code::FilterEnabledPartly, enabled);
    }
}

/// A static layer of the runtime gives `key` a lower share than the filter's own.
fn lowered_at_runtime(report: &Report<'_, '_>, key: &str) -> bool {
    let layers = report.scene.bootstrap.map(|bootstrap| bootstrap.list("layered_runtime.layers")).unwrap_or_default();
    let values = layers.iter().filter_map(|layer| {
        let layer = layer.get("static_layer")?;
        layer.get(key).or_else(|| layer.at(key))
    });
    !key.is_empty()
        && values
            .filter_map(|value| value.text().parse::<f64>().ok().or_else(|| value.number_at("numerator").map(|n| n as f64)))
            .any(|share| share < 100.0)
}

/// A status that clients and caches take for a success, or follow.
fn lets_through(code: &str) -> bool {
    const WORDS: &[&str] = &[
        "Continue",
        "OK",
        "Created",
        "Accepted",
        "NonAuthoritativeInformation",
        "NoContent",
        "ResetContent",
        "PartialContent",
        "MultiStatus",
        "AlreadyReported",
        "IMUsed",
        "MultipleChoices",
        "MovedPermanently",
        "Found",
        "SeeOther",
        "NotModified",
        "UseProxy",
        "TemporaryRedirect",
        "PermanentRedirect",
    ];
    match code.parse::<u32>() {
        // Zero is the field left out, which Envoy reads as 403.
        Ok(number) => (1..400).contains(&number),
        Err(_) => WORDS.contains(&code),
    }
}

fn lint_body<'a>(report: &mut Report<'a, '_>, filter: &'a Node, service: &'a Node) {
    let body = filter.get("with_request_body");
    if let Some(body) = body.filter(|body| !body.is_set("pack_as_bytes")) {
        report.add_field(Code::BodyAsText, body, "pack_as_bytes");
    }
    let Some(config) = report.config else { return };
    let Some(listener) = report.listener(cluster::asked(report, filter)) else { return };
    let told = body.and_then(|body| body.number_at("max_request_bytes"));
    let ours = listener.max_body.map(|size| size.bytes() as u64);
    let message = config.limits.message;
    let corrected = |bytes: u64| {
        format!("with_request_body: {{max_request_bytes: {bytes}, allow_partial_message: true, pack_as_bytes: true}}")
    };
    let (reason, corrected) = match (told, ours) {
        (Some(told), _) if told >= message.bytes() as u64 => (
            format!("a body of this size does not fit into `limits.message: {message}`, so that its call is refused"),
            corrected(65_536),
        ),
        (Some(told), None) => (
            format!(
                "{}: doorward's listener has no `max_body`; write `max_body: {told}B` there",
                Code::BodyLimitDiffers.reason()
            ),
            String::new(),
        ),
        (Some(told), Some(ours)) if told != ours => {
            (format!("{}: Envoy cuts at {told} bytes and `max_body` is {ours}", Code::BodyLimitDiffers.reason()), corrected(ours))
        }
        (None, Some(ours)) => (
            format!(
                "doorward expects bodies of up to {ours} bytes (`max_body`), and Envoy sends none: rules about them decide without"
            ),
            corrected(ours),
        ),
        _ => return,
    };
    report.add_saying(
        Code::BodyLimitDiffers,
        body.and_then(|body| body.get("max_request_bytes")).unwrap_or(service),
        reason,
        corrected,
    );
}

fn lint_headers<'a>(report: &mut Report<'a, '_>, filter: &'a Node) {
    if !filter.is_set("validate_mutations") {
        report.add_field(Code::MutationsUnchecked, filter, "validate_mutations");
    }
    if filter.is_set("clear_route_cache") {
        report.add_field(Code::RouteCacheCleared, filter, "clear_route_cache");
    }
    if !filter.is_set("encode_raw_headers") {
        report.add_field(Code::HeadersJoined, filter, "encode_raw_headers");
    }
    for hidden in ["allowed_headers", "disallowed_headers"] {
        if let Some(patterns) = filter.get(hidden).filter(|matcher| !matcher.list("patterns").is_empty()) {
            report.add(Code::HeadersHidden, patterns);
        }
    }
    if let Some(rules) = filter.get("decoder_header_mutation_rules").filter(|rules| !(allows(rules, LEASE) && allows(rules, OWN)))
    {
        report.add(Code::LeaseHeaderBlocked, rules);
    }
}

/// Whether mutation rules let `header` be set and removed, in Envoy's order: the expressions first, then the classes.
fn allows(rules: &Node, header: &str) -> bool {
    let matches = |field: &str| {
        let regex = rules.text_at(&format!("{field}.regex"));
        !regex.is_empty() && Regex::new(&format!("^(?:{regex})$")).is_ok_and(|regex| regex.is_match(header))
    };
    if matches("disallow_expression") {
        return false;
    }
    matches("allow_expression")
        || (!rules.is_set("disallow_all") && (!header.starts_with("x-envoy") || rules.is_set("allow_envoy")))
}
