//! What spans several keys of the configuration: each finding names the key and says what to write instead.

use super::{
    Address, Config, Download, Listener, Own, PeerProof, Placement, RecordWrite, Shown, Sink, alerts, bundle, control, state,
    tokens, upload,
};

/// `(key, text)` for each mistake; empty when the configuration can be used.
pub(super) fn check(config: &Config) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if config.listeners.is_empty() {
        found.push((
            "listeners".to_owned(),
            "no listener, so nothing could ask; add `- address: unix:///run/doorward/envoy/authz.sock`".to_owned(),
        ));
    }
    if config.policy.bundles.is_empty() {
        found.push((
            "policy.bundles".to_owned(),
            "no policy source, so every call would be denied; add `- path: policy/`".to_owned(),
        ));
    }
    bundle::check(&config.policy, &mut found);
    tokens::check(config, &mut found);
    if !config.policy.decision.split('/').any(|part| !part.is_empty()) {
        found.push((
            "policy.decision".to_owned(),
            "no rule is named; write its path below `data`, like `envoy/authz/allow`".to_owned(),
        ));
    }
    if let Some(shadow) = &config.policy.shadow {
        if shadow.bundles.is_empty() {
            found.push((
                "policy.shadow.bundles".to_owned(),
                "no policy source; add `- path: candidate/`, or remove `shadow`".to_owned(),
            ));
        }
        if !(0.0..=1.0).contains(&shadow.sample) {
            found.push(("policy.shadow.sample".to_owned(), "a share lies between 0 and 1".to_owned()));
        }
    }
    check_shown(config, &mut found);
    for (index, listener) in config.listeners.iter().enumerate() {
        check_listener(config, index, listener, &mut found);
    }
    if let Some(part) = &config.control {
        control::check(part, config, &mut found);
    }
    state::check(config, &mut found);
    if config.records.write == RecordWrite::Commit && !matches!(config.records.sink, Sink::File(_)) {
        found.push((
            "records.write".to_owned(),
            "`commit` needs a sink that reaches the disk; set `records.sink.file.path`".to_owned(),
        ));
    }
    if config.records.queue == 0 {
        found.push(("records.queue".to_owned(), "a queue of 0 would drop every record; write at least 1".to_owned()));
    }
    if let Some(part) = &config.records.upload {
        upload::check(part, &mut found);
    }
    if let Some(part) = &config.alerts {
        alerts::check(part, &mut found);
    }
    if let Some(otlp) = &config.telemetry.otlp {
        if !(0.0..=1.0).contains(&otlp.sample) {
            found.push(("telemetry.otlp.sample".to_owned(), "a share lies between 0 and 1".to_owned()));
        }
        if !otlp.endpoint.username().is_empty() || otlp.endpoint.password().is_some() {
            found
                .push(("telemetry.otlp.endpoint".to_owned(), "credentials do not belong in the address; remove them".to_owned()));
        }
    }
    if config.limits.evaluators == Some(0) {
        found.push((
            "limits.evaluators".to_owned(),
            "nothing could be evaluated; write at least 1 or leave the key out".to_owned(),
        ));
    }
    found
}

const LACKS_OWN: &str = "`workload_api` shows our own SVID; write `trust: {self: {workload_api: true}}` too";

/// Whether our own SVID is to be shown and the Workload API is not asked for it.
fn lacks_own(config: &Config, tls: Option<&Shown>) -> bool {
    tls == Some(&Shown::WorkloadApi) && config.trust.own != Some(Own::WorkloadApi)
}

/// Where our own SVID is shown to a server, there has to be one.
fn check_shown(config: &Config, found: &mut Vec<(String, String)>) {
    for (index, bundle) in config.policy.bundles.iter().enumerate() {
        if bundle.download().is_some_and(|Download { tls, .. }| lacks_own(config, tls.as_ref())) {
            found.push((format!("policy.bundles[{index}].tls"), LACKS_OWN.to_owned()));
        }
    }
    for (index, issuer) in config.tokens.issuers.iter().enumerate() {
        if lacks_own(config, issuer.keys.tls.as_ref()) {
            found.push((format!("tokens.issuers[{index}].keys.tls"), LACKS_OWN.to_owned()));
        }
    }
    if config.records.upload.as_ref().is_some_and(|upload| lacks_own(config, upload.tls.as_ref())) {
        found.push(("records.upload.tls".to_owned(), LACKS_OWN.to_owned()));
    }
    if config.alerts.as_ref().is_some_and(|alerts| lacks_own(config, alerts.alertmanager.tls.as_ref())) {
        found.push(("alerts.alertmanager.tls".to_owned(), LACKS_OWN.to_owned()));
    }
}

fn check_listener(config: &Config, index: usize, listener: &Listener, found: &mut Vec<(String, String)>) {
    let mut report = |key: &str, text: &str| found.push((format!("listeners[{index}].{key}"), text.to_owned()));
    match &listener.address {
        Address::Tcp(_) => {
            if !listener.callers.uids.is_empty() {
                report("callers.uids", "user ids are known on Unix sockets only; list `spiffe_ids`, with `tls`");
            }
            match (&listener.tls, listener.callers.spiffe_ids.is_empty(), listener.insecure) {
                (Some(_), false, false) | (_, true, true) => {}
                (None, _, false) => report(
                    "address",
                    "TCP needs `tls` and `callers.spiffe_ids`, or `insecure: true` by name: whoever reaches it can speak for any workload",
                ),
                (Some(_), true, false) => {
                    report("tls", "TLS without `callers.spiffe_ids` admits every caller; list them, or write `insecure: true`")
                }
                (_, false, true) => {
                    report("insecure", "`insecure: true` contradicts `callers.spiffe_ids`; remove one of the two")
                }
            }
        }
        Address::Unix(_) | Address::Abstract(_) => {
            if listener.tls.is_some() {
                report("tls", "TLS is for TCP listeners; callers of a Unix socket are known by their user id");
            }
            if !listener.callers.spiffe_ids.is_empty() {
                report("callers.spiffe_ids", "SPIFFE IDs are proved by TLS; on a Unix socket list `uids`");
            }
            if listener.insecure {
                report("insecure", "`insecure` is for TCP listeners; remove it");
            }
        }
    }
    for (at, id) in listener.callers.spiffe_ids.iter().enumerate() {
        if !config.trust.domains.keys().any(|domain| id.is_member_of(domain)) {
            report(&format!("callers.spiffe_ids[{at}]"), "its trust domain has no bundle; add it under `trust.domains`");
        }
    }
    if lacks_own(config, listener.tls.as_ref()) {
        report("tls", LACKS_OWN);
    }
    if listener.placement == Placement::Egress {
        if config.trust.own.is_none() {
            report("placement", "`egress` speaks for the workload that we belong to; say who that is under `trust.self`");
        }
    } else if listener.peer.trust == PeerProof::Sidecar && config.trust.domains.is_empty() {
        report(
            "peer",
            "`trust: sidecar` checks chains, and `trust.domains` has no bundle; add one, or write `peer: {trust: certificate}` to believe Envoy",
        );
    }
}
