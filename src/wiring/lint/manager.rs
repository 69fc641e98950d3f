//! The HTTP connection manager: is every call asked about, is the request that is decided the one that is passed on, and
//! what may a client write about itself. Its routes are `route`'s, the filter is `filter`'s.

use std::net::IpAddr;

use super::{Code, Report, cluster, filter, route, stream};
use crate::{
    config::{Node, Xfcc},
    wiring::field::Typed,
};

const FILTER: &str = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";

/// Whether the manager asks doorward; one that only tells Envoy's own readiness need not.
pub(super) fn lint<'a>(report: &mut Report<'a, '_>, manager: &'a Node) -> bool {
    let routes = route::of(report, manager);
    let names = lint_filters(report, manager.list("http_filters"));
    if names.is_empty() {
        if !manager.list("http_filters").iter().any(|filter| is_unseen(report, filter)) && !route::only_readiness(report, &routes)
        {
            report.add_field(Code::FilterMissing, manager, "http_filters");
        }
        return false;
    }
    for upgrade in manager.list("upgrade_configs") {
        if upgrade.get("filters").is_some() && !upgrade.list("filters").iter().any(|filter| is_ours(report, filter)) {
            report.add(Code::UpgradeUnasked, upgrade);
        }
    }
    for config in &routes {
        route::lint(report, config, &names);
    }
    lint_path(report, manager);
    lint_addresses(report, manager);
    lint_xfcc(report, manager);
    true
}

/// The filters of a piece that is to be pasted.
pub(super) fn lint_piece<'a>(report: &mut Report<'a, '_>, filters: &'a Node) {
    let items = match &filters.value {
        crate::config::Value::List(items) => items.as_slice(),
        _ => &[],
    };
    if lint_filters(report, items).is_empty() {
        report.add(Code::FilterMissing, filters);
    }
}

/// Looks at the filters in their order; returns the names under which routes speak of ours.
fn lint_filters<'a>(report: &mut Report<'a, '_>, filters: &'a [Node]) -> Vec<&'a str> {
    let (mut names, mut authorizers) = (Vec::new(), Vec::new());
    for http_filter in filters {
        let Some(Typed { name, mut body }) = report.scene.filter_config(http_filter) else {
            if is_unseen(report, http_filter) {
                report.add(Code::FilterUnseen, http_filter);
            }
            continue;
        };
        let inner = body.typed("extension_config.typed_config").or_else(|| body.get("extension_config")?.typed("typed_config"));
        let conditional = name.ends_with(".ExtensionWithMatcher").then_some(inner).flatten();
        if let Some(Typed { name: FILTER, body: inner }) = conditional {
            report.add(Code::FilterConditional, http_filter);
            body = inner;
        } else if name != FILTER {
            lint_neighbour(report, http_filter, name, !names.is_empty());
            continue;
        }
        if http_filter.is_set("disabled") {
            report.add_field(Code::FilterDisabled, http_filter, "disabled");
        }
        if http_filter.is_set("is_optional") {
            report.add_field(Code::FilterOptional, http_filter, "is_optional");
        }
        filter::lint(report, body);
        names.push(http_filter.text_at("name"));
        authorizers.push(body);
    }
    stream::lint(report, filters, &authorizers);
    names
}

/// Another filter beside ours: does it answer before we are asked, or change what was decided?
fn lint_neighbour<'a>(report: &mut Report<'a, '_>, http_filter: &'a Node, name: &str, after: bool) {
    let kind = name.strip_prefix("envoy.extensions.filters.http.").and_then(|rest| rest.split('.').next()).unwrap_or_default();
    let rewrites = ["lua", "wasm", "ext_proc", "golang", "dynamic_modules", "header_mutation", "composite"].contains(&kind);
    match kind {
        "cache" | "cache_v2" if !after => report.add(Code::AnswerBeforeFilter, http_filter),
        _ if rewrites && after && !reads_only(http_filter) => report.add(Code::RewriteAfterFilter, http_filter),
        _ => {}
    }
}

/// An `ext_proc` filter that is not shown request headers and body changes nothing of the request.
fn reads_only(http_filter: &Node) -> bool {
    let Some(Typed { body, .. }) = http_filter.typed("typed_config") else { return false };
    body.is_set("observability_mode")
        || body.is_set("mutation_rules.disallow_all.value")
        || body.is_set("mutation_rules.disallow_all")
}

fn is_ours(report: &Report<'_, '_>, filter: &Node) -> bool {
    let name = filter.typed("typed_config").map(|typed| typed.name);
    name == Some(FILTER)
        || report.scene.extensions.iter().any(|known| {
            known.text_at("name") == filter.text_at("name")
                && known.typed("typed_config").is_some_and(|typed| typed.name == FILTER)
        })
}

/// A filter that is delivered over the network, of our type or of one that is not told.
fn is_unseen<'a>(report: &Report<'a, '_>, filter: &'a Node) -> bool {
    let types = filter.list("config_discovery.type_urls");
    let unseen = filter.get("config_discovery").is_some() && report.scene.filter_config(filter).is_none();
    unseen && (types.is_empty() || types.iter().any(|url| url.text().ends_with(FILTER)))
}

fn lint_path<'a>(report: &mut Report<'a, '_>, manager: &'a Node) {
    if !manager.is_set("normalize_path") {
        report.add_field(Code::PathNotNormalised, manager, "normalize_path");
    }
    if !manager.is_set("merge_slashes") {
        report.add_field(Code::SlashesNotMerged, manager, "merge_slashes");
    }
    // To reject, and to unescape with or without a redirect, all leave one spelling.
    let action = "path_with_escaped_slashes_action";
    let safe = [("REJECT_REQUEST", 2), ("UNESCAPE_AND_REDIRECT", 3), ("UNESCAPE_AND_FORWARD", 4)];
    if !safe.iter().any(|(word, number)| manager.is_word(action, word, *number)) {
        report.add_field(Code::EscapedSlashesKept, manager, action);
    }
    let underscores = "common_http_protocol_options.headers_with_underscores_action";
    if !manager.is_word(underscores, "REJECT_REQUEST", 1) && !manager.is_word(underscores, "DROP_HEADER", 2) {
        report.add_field(Code::UnderscoresAllowed, manager, underscores);
    }
}

fn lint_addresses<'a>(report: &mut Report<'a, '_>, manager: &'a Node) {
    // Whoever configures a detection of their own has thought of it; the two exclude each other.
    if !manager.is_set("use_remote_address") && manager.list("original_ip_detection_extensions").is_empty() {
        report.add_field(Code::ClientAddressForged, manager, "use_remote_address");
    }
    let Some(internal) = manager.get("internal_address_config") else {
        report.add(Code::InternalAddressesDefault, manager);
        return;
    };
    let ranges = internal.list("cidr_ranges");
    if ranges.is_empty() {
        // Measured on 1.40: written without ranges it trusts all of RFC 1918, left out it trusts nobody.
        report.add(Code::InternalAddressesTrusted, internal);
    } else if let Some(range) = ranges.iter().find(|range| !is_own_or_nobody(range)) {
        report.add(Code::InternalAddressesTrusted, range);
    }
}

/// Loopback, or the one address that nobody has.
fn is_own_or_nobody(range: &Node) -> bool {
    let length = range.number_at("prefix_len").unwrap_or_default();
    match range.text_at("address_prefix").parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => length >= if ip.is_ipv4() { 32 } else { 128 },
        Ok(ip) => ip.is_loopback() && length >= if ip.is_ipv4() { 8 } else { 128 },
        Err(_) => false,
    }
}

fn lint_xfcc<'a>(report: &mut Report<'a, '_>, manager: &'a Node) {
    let details = "forward_client_cert_details";
    let forwarded = [("FORWARD_ONLY", 1), ("APPEND_FORWARD", 2), ("ALWAYS_FORWARD_ONLY", 4)];
    if forwarded.iter().any(|(word, number)| manager.is_word(details, word, *number)) {
        report.add_field(Code::XfccForwarded, manager, details);
        return;
    }
    let clusters = manager.list("http_filters").iter().filter_map(|filter| filter.typed("typed_config"));
    let asked = clusters.filter(|typed| typed.name == FILTER).find_map(|typed| cluster::asked(report, typed.body));
    let wanted = report.listener(asked).is_some_and(|listener| listener.peer.xfcc == Xfcc::LastElement);
    if wanted && !(manager.is_word(details, "SANITIZE_SET", 3) && manager.is_set("set_current_client_cert_details.chain")) {
        report.add_field(Code::XfccAbsent, manager, details);
    }
}
