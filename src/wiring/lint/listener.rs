//! Listeners: who may connect and how that is proved (TLS, client certificates), and whether what comes in over them is
//! asked about at all. The HTTP connection manager is `manager`'s.

use super::{Code, Report, cluster, filter, manager};
use crate::{config::Node, wiring::field::Typed};

const MANAGER: &str = "HttpConnectionManager";

pub(super) fn lint<'a>(report: &mut Report<'a, '_>, listener: &'a Node) {
    // What leaves the workload comes from the workload itself, over loopback: nobody has to prove anything.
    let outbound = listener.is_word("traffic_direction", "OUTBOUND", 2);
    // A listener that binds no port gets its connections from another one, which redirected traffic reaches.
    let bound = !listener.is_word("bind_to_port", "false", 0) && !listener.is_set("use_original_dst");
    if let Some(address) = listener.get("address").filter(|address| outbound && bound && !cluster::is_local(address)) {
        report.add(Code::EgressExposed, address);
    }
    for chain in listener.list("filter_chains").iter().chain(listener.get("default_filter_chain")) {
        lint_chain(report, chain, outbound);
    }
}

fn lint_chain<'a>(report: &mut Report<'a, '_>, chain: &'a Node, outbound: bool) {
    let mut asked = false;
    let mut guarded = false;
    for filter in chain.list("filters") {
        let Some(Typed { name, body }) = filter.typed("typed_config") else { continue };
        match name {
            "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz" => {
                filter::lint_network(report, body);
                (asked, guarded) = (true, true);
            }
            "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" if !asked => report.add(Code::TcpUnasked, filter),
            _ if name.ends_with(MANAGER) => guarded |= manager::lint(report, body),
            _ => {}
        }
    }
    if guarded && !outbound {
        lint_tls(report, chain);
    }
}

fn lint_tls<'a>(report: &mut Report<'a, '_>, chain: &'a Node) {
    let Some(Typed { name, body }) = chain.get("transport_socket").and_then(|socket| socket.typed("typed_config")) else {
        report.add_field(Code::PlaintextListener, chain, "transport_socket");
        return;
    };
    let tls = match name.rsplit('.').next() {
        Some("DownstreamTlsContext") => body,
        // QUIC is TLS too; it wraps the same message.
        Some("QuicDownstreamTransport") => body.get("downstream_tls_context").unwrap_or(body),
        Some("RawBuffer") => return report.add(Code::PlaintextListener, body),
        _ => return,
    };
    if !tls.is_set("require_client_certificate") {
        report.add_field(Code::CertificateOptional, tls, "require_client_certificate");
    }
    let version = "common_tls_context.tls_params.tls_minimum_protocol_version";
    if tls.is_word(version, "TLSv1_0", 1) || tls.is_word(version, "TLSv1_1", 2) {
        report.add_field(Code::OldTls, tls, version);
    }
    lint_validation(report, tls);
}

fn lint_validation<'a>(report: &mut Report<'a, '_>, tls: &'a Node) {
    const COMBINED: &str = "common_tls_context.combined_validation_context";
    let at = |path: &str| tls.at(&format!("common_tls_context.{path}"));
    let combined = |path: &str| tls.at(&format!("{COMBINED}.{path}"));
    let written = at("validation_context").into_iter().chain(combined("default_validation_context"));
    let named = at("validation_context_sds_secret_config").or_else(|| combined("validation_context_sds_secret_config"));
    let delivered = named.and_then(|secret| report.scene.secret(secret.text_at("name"))?.get("validation_context"));
    let contexts: Vec<_> = written.chain(delivered).collect();
    for context in &contexts {
        if context.is_word("trust_chain_verification", "ACCEPT_UNTRUSTED", 1) {
            report.add_field(Code::UntrustedAccepted, context, "trust_chain_verification");
        }
        if context.is_set("allow_expired_certificate") {
            report.add_field(Code::ExpiredAccepted, context, "allow_expired_certificate");
        }
    }
    const ROOTS: &[&str] = &[
        "trusted_ca",
        "system_root_certs",
        "custom_validator_config",
        "ca_certificate_provider_instance",
        "verify_certificate_hash",
        "verify_certificate_spki",
    ];
    let has_roots = contexts.iter().any(|context| ROOTS.iter().any(|field| context.get(field).is_some()));
    // A secret that is delivered from elsewhere is not in this file.
    if !has_roots && (named.is_none() || delivered.is_some()) {
        report.add(Code::ClientTrustMissing, contexts.first().copied().unwrap_or(tls));
    }
}
