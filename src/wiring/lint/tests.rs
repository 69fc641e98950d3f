//! A sound configuration with one weakness each: it is found by its own code, in its line, and nothing else is.

use std::{collections::BTreeSet, fs, path::Path};

use super::*;
use crate::{
    config::Placement,
    wiring::generate::{self, Certificates, Plan},
};

fn plan() -> Plan {
    Plan {
        command: "doorward gen envoy".to_owned(),
        placement: Placement::Inbound,
        listen: ([0, 0, 0, 0], 8443).into(),
        upstream: "127.0.0.1:8080".parse().unwrap(),
        upstream_tls: false,
        socket: "/run/doorward/envoy/authz.sock".to_owned(),
        max_body: "64KiB".parse().unwrap(),
        timeout: "250ms".parse().unwrap(),
        certificates: Certificates::Folder("/etc/envoy".into()),
        trust_domain: None,
        certificate_optional: false,
        xfcc: true,
        admin: Some(9901),
        probe: Some(9902),
        streams: vec!["/stream/".to_owned()],
        stream_limit: 10_000,
    }
}

fn findings(text: &str, config: Option<&Config>) -> Vec<Finding> {
    lint(&Document::parse(Path::new("envoy.yaml"), text).unwrap(), config)
}

fn codes(text: &str, config: Option<&Config>) -> Vec<Code> {
    findings(text, config).iter().map(|finding| finding.code).collect()
}

const CONFIG: &str = "version: 1
listeners:
- address: unix:///run/doorward/envoy/authz.sock
  max_body: 64KiB
  peer: {xfcc: last_element}
trust: {domains: {example.org: {bundle: bundle.pem}}}
policy: {bundles: [{path: policy}]}
";

fn config(text: &str) -> Config {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    crate::config::load(file.path()).unwrap()
}

/// `(code, what is written, what is written instead)`; an empty first text appends.
const WEAK: &[(Code, &str, &str)] = &[
    (Code::FailureModeAllow, "failure_mode_allow: false", "failure_mode_allow: true"),
    (Code::FailureModeAllow, "failure_mode_allow: false", "failureModeAllow: yes"),
    (Code::PeerCertificateMissing, "include_peer_certificate: true", "include_peer_certificate: false"),
    (Code::PeerCertificateMissing, "include_peer_certificate: true\n", "\n"),
    (Code::TimeoutMissing, "timeout: 0.25s\n", "\n"),
    (Code::TimeoutUnbounded, "timeout: 0.25s", "timeout: 0s"),
    (Code::TimeoutExcessive, "timeout: 0.25s", "timeout: 30s"),
    (Code::RetryOnReset, "reset-before-request", "reset"),
    (Code::StatusOnError, "{code: ServiceUnavailable}", "{code: OK}"),
    (Code::StatusOnError, "{code: ServiceUnavailable}", "{code: 302}"),
    (Code::ShadowMode, "failure_mode_allow: false", "shadow_mode: true"),
    (
        Code::FilterEnabledPartly,
        "failure_mode_allow: false",
        "filter_enabled: {default_value: {numerator: 99, denominator: HUNDRED}}",
    ),
    (
        Code::FilterEnabledPartly,
        "failure_mode_allow: false",
        "filter_enabled: {default_value: {numerator: 100, denominator: MILLION}}",
    ),
    (
        Code::FilterEnabledByMetadata,
        "failure_mode_allow: false",
        "filter_enabled_metadata: {filter: f, path: [{key: k}], value: {bool_match: true}}",
    ),
    (Code::BodyAsText, "pack_as_bytes: true", "pack_as_bytes: false"),
    (Code::MutationsUnchecked, "validate_mutations: true", "validate_mutations: false"),
    (
        Code::LeaseHeaderBlocked,
        "allow_expression: {regex: \"x-envoy-upstream-stream-duration-ms|x-doorward-.*\"}",
        "allow_envoy: false",
    ),
    (Code::LeaseHeaderBlocked, "disallow_system: true", "disallow_expression: {regex: \"x-envoy-.*\"}"),
    (
        Code::LeaseHeaderBlocked,
        "allow_expression: {regex: \"x-envoy-upstream-stream-duration-ms|x-doorward-.*\"}",
        "disallow_all: true",
    ),
    (Code::RouteCacheCleared, "clear_route_cache: false", "clear_route_cache: true"),
    (Code::HeadersHidden, "failure_mode_allow: false", "disallowed_headers: {patterns: [{exact: cookie}]}"),
    (Code::HeadersJoined, "encode_raw_headers: true", "encode_raw_headers: false"),
    (
        Code::HttpService,
        "grpc_service:\n",
        "http_service: {server_uri: {uri: \"http://a\", cluster: a, timeout: 1s}}\n              ignored:\n",
    ),
    (
        Code::FilterDisabled,
        "- name: envoy.filters.http.ext_authz\n",
        "- name: envoy.filters.http.ext_authz\n            disabled: true\n",
    ),
    (
        Code::FilterOptional,
        "- name: envoy.filters.http.ext_authz\n",
        "- name: envoy.filters.http.ext_authz\n            is_optional: true\n",
    ),
    (Code::FilterMissing, "filters.http.ext_authz.v3.ExtAuthz\n", "filters.http.cors.v3.Cors\n"),
    (Code::FilterMissing, "- match: {path: /ready}", "- match: {prefix: /}"),
    (Code::FilterMissing, "- match: {path: /ready}\n", "- match: {path: /other}\n"),
    (
        Code::FilterUnseen,
        "          - name: envoy.filters.http.router",
        "          - {name: more, config_discovery: {config_source: {ads: {}}, type_urls: [type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz]}}\n          - name: envoy.filters.http.router",
    ),
    (
        Code::RewriteAfterFilter,
        "          - name: envoy.filters.http.router",
        "          - {name: lua, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua}}\n          - name: envoy.filters.http.router",
    ),
    (
        Code::AnswerBeforeFilter,
        "          - name: envoy.filters.http.ext_authz\n",
        "          - {name: cache, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.cache.v3.CacheConfig}}\n          - name: envoy.filters.http.ext_authz\n",
    ),
    (
        Code::UpgradeUnasked,
        "- upgrade_type: websocket",
        "- {upgrade_type: websocket, filters: [{name: envoy.filters.http.router}]}",
    ),
    (
        Code::RouteDisabled,
        "check_settings: {disable_request_body_buffering: true, ",
        "disabled: true\n                    ignored: {",
    ),
    (
        Code::RouteDisabled,
        "domains: [\"*\"]\n              routes:\n              # Streams",
        "domains: [\"*\"]\n              typed_per_filter_config: {envoy.filters.http.ext_authz: {\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}}\n              routes:\n              # Streams",
    ),
    (
        Code::RouteDisabled,
        "route: {cluster: workload, timeout: 15s}",
        "route: {weighted_clusters: {clusters: [{name: workload, weight: 1, typed_per_filter_config: {envoy.filters.http.ext_authz: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, disabled: true}}}]}}",
    ),
    (Code::RouteService, "disable_request_body_buffering: true", "grpc_service: {envoy_grpc: {cluster_name: other}}"),
    (Code::RouteRetry, "timeout: 15s}", "timeout: 15s, retry_policy: {retry_on: \"gateway-error,reset\"}}"),
    (Code::RouteRetry, "domains: [\"*\"]\n", "domains: [\"*\"]\n              retry_policy: {retry_on: 5xx}\n"),
    (Code::PathNotNormalised, "normalize_path: true", "normalize_path: false"),
    (Code::SlashesNotMerged, "merge_slashes: true", "merge_slashes: false"),
    (
        Code::EscapedSlashesKept,
        "path_with_escaped_slashes_action: REJECT_REQUEST",
        "path_with_escaped_slashes_action: KEEP_UNCHANGED",
    ),
    (Code::UnderscoresAllowed, "headers_with_underscores_action: REJECT_REQUEST", "headers_with_underscores_action: ALLOW"),
    (Code::ClientAddressForged, "use_remote_address: true", "use_remote_address: false"),
    (
        Code::InternalAddressesTrusted,
        "internal_address_config: {cidr_ranges: [{address_prefix: 0.0.0.0, prefix_len: 32}]}",
        "internal_address_config: {unix_sockets: false}",
    ),
    (Code::InternalAddressesTrusted, "address_prefix: 0.0.0.0, prefix_len: 32", "address_prefix: 0.0.0.0, prefix_len: 0"),
    (
        Code::InternalAddressesTrusted,
        "internal_address_config: {cidr_ranges: [{address_prefix: 0.0.0.0, prefix_len: 32}]}",
        "internal_address_config: {cidr_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}",
    ),
    (
        Code::InternalAddressesDefault,
        "internal_address_config: {cidr_ranges: [{address_prefix: 0.0.0.0, prefix_len: 32}]}",
        "generate_request_id: true",
    ),
    (Code::XfccForwarded, "forward_client_cert_details: SANITIZE_SET", "forward_client_cert_details: ALWAYS_FORWARD_ONLY"),
    (Code::XfccForwarded, "forward_client_cert_details: SANITIZE_SET", "forward_client_cert_details: APPEND_FORWARD"),
    (Code::XfccForwarded, "forward_client_cert_details: SANITIZE_SET", "forward_client_cert_details: FORWARD_ONLY"),
    (Code::XfccForwarded, "forward_client_cert_details: SANITIZE_SET", "forwardClientCertDetails: 4"),
    (Code::PlaintextListener, "transport_socket:\n", "ignored:\n"),
    (Code::PlaintextListener, "transport_sockets.tls.v3.DownstreamTlsContext", "transport_sockets.raw_buffer.v3.RawBuffer"),
    (Code::ClientTrustMissing, "validation_context_sds_secret_config:", "ignored:"),
    (
        Code::UntrustedAccepted,
        "validation_context_sds_secret_config:",
        "validation_context: {trusted_ca: {filename: a}, trust_chain_verification: ACCEPT_UNTRUSTED}\n            ignored:",
    ),
    (
        Code::ExpiredAccepted,
        "validation_context_sds_secret_config:",
        "validation_context: {trusted_ca: {filename: a}, allow_expired_certificate: true}\n            ignored:",
    ),
    (Code::CertificateOptional, "require_client_certificate: true", "require_client_certificate: false"),
    (Code::OldTls, "tls_minimum_protocol_version: TLSv1_2", "tls_minimum_protocol_version: TLSv1_1"),
    (Code::ClusterMissing, "- name: doorward\n", "- name: other\n"),
    (
        Code::ClusterOnLoopback,
        "pipe: {path: /run/doorward/envoy/authz.sock}",
        "socket_address: {address: 127.0.0.1, port_value: 9191}",
    ),
    (
        Code::ClusterUnprotected,
        "pipe: {path: /run/doorward/envoy/authz.sock}",
        "socket_address: {address: 10.0.0.1, port_value: 9191}",
    ),
    (Code::ClusterNotHttp2, "http2_protocol_options:\n            # Finds", "ignored:\n            # Finds"),
    (Code::CircuitBreakersLow, "max_requests: 4096", "max_requests: 1024"),
    (Code::CircuitBreakersLow, "circuit_breakers:", "ignored:"),
    (Code::StreamsShareCluster, "cluster_name: doorward_streams}}", "cluster_name: doorward}}"),
    (Code::StreamBreakersLow, "max_requests: 12500", "max_requests: 10000"),
    (Code::StreamBreakersLow, "max_pending_requests: 12500, ", ""),
    (
        Code::StreamsFailOpen,
        "failure_mode_allow: false\n              status_on_error: {code: ServiceUnavailable}\n              # Envoy waits",
        "failure_mode_allow: true\n              # Envoy waits",
    ),
    (Code::StreamsNotHeld, "response_trailer_mode: SEND", "response_trailer_mode: SKIP"),
    (Code::StreamsUnnamed, "untyped: [envoy.filters.http.ext_authz]", "untyped: [envoy.filters.http.rbac]"),
    (Code::AdminExposed, "address: 127.0.0.1, port_value: 9901", "address: 0.0.0.0, port_value: 9901"),
    (Code::HeaderPrefix, "static_resources:\n", "header_prefix: x-acme\nstatic_resources:\n"),
    (Code::ListenersUnseen, "static_resources:\n", "dynamic_resources: {lds_config: {ads: {}}}\nstatic_resources:\n"),
    (
        Code::RoutesUnseen,
        "route_config:\n            name: inbound",
        "rds: {route_config_name: a, config_source: {ads: {}}}\n          ignored:\n            name: inbound",
    ),
    (
        Code::TcpUnasked,
        "  - name: probe\n",
        "  - name: tcp\n    filter_chains: [{filters: [{name: tcp, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, cluster: workload}}]}]\n  - name: probe\n",
    ),
];

/// The same with a configuration of ours beside it, in which the last two texts are replaced.
const DISAGREEING: &[(Code, &str, &str, &str, &str)] = &[
    (Code::CompatFailsOpen, "failure_mode_allow: false", "failure_mode_allow: true", "policy: {", "policy: {compat: opa-envoy, "),
    (Code::BodyLimitDiffers, "max_request_bytes: 65536", "max_request_bytes: 8192", "", ""),
    (Code::BodyLimitDiffers, "", "", "  max_body: 64KiB\n", ""),
    (Code::BodyLimitDiffers, "", "", "version: 1", "version: 1\nlimits: {message: 64KiB}"),
    (Code::BodyLimitDiffers, "with_request_body:", "ignored:", "", ""),
    (Code::SocketDiffers, "/run/doorward/envoy/authz.sock}", "/run/other.sock}", "", ""),
    (Code::SocketDiffers, "", "", "unix:///run/doorward/envoy/authz.sock", "unix://@doorward"),
    (Code::XfccAbsent, "SANITIZE_SET", "SANITIZE", "", ""),
    (Code::XfccAbsent, "{cert: true, chain: true, uri: true}", "{uri: true}", "", ""),
    (Code::TimeoutShort, "", "", "version: 1", "version: 1\nlimits: {decision: 400ms}"),
    (Code::CircuitBreakersLow, "", "", "version: 1", "version: 1\nlimits: {queue: 5000}"),
    (Code::StreamBreakersLow, "", "", "version: 1", "version: 1\nlimits: {streams: 20000}"),
];

fn patched(text: &str, from: &str, to: &str) -> String {
    if from.is_empty() {
        return text.to_owned();
    }
    assert!(text.contains(from), "`{from}` is not in\n{text}");
    text.replacen(from, to, 1)
}

#[test]
fn each_weakness_is_found_by_its_own_code_and_nothing_else() {
    let good = generate::whole(&plan());
    for (code, from, to) in WEAK {
        let weak = patched(&good, from, to);
        let found = findings(&weak, None);
        assert_eq!(found.iter().map(|finding| finding.code).collect::<Vec<_>>(), [*code], "{to}: {found:?}");
        let line = found[0].line.unwrap();
        assert!((1..=weak.lines().count() as u64).contains(&line) && !found[0].path.is_empty(), "{found:?}");
    }
}

#[test]
fn what_disagrees_with_our_configuration_is_found() {
    let good = generate::whole(&plan());
    assert_eq!(codes(&good, Some(&config(CONFIG))), []);
    for (code, from, to, ours_from, ours_to) in DISAGREEING {
        let found = findings(&patched(&good, from, to), Some(&config(&patched(CONFIG, ours_from, ours_to))));
        assert_eq!(found.iter().map(|finding| finding.code).collect::<Vec<_>>(), [*code], "{to}{ours_to}: {found:?}");
    }
    // Where the principal is believed, no certificate is waited for.
    let believes = config(&CONFIG.replace("{xfcc: last_element}", "{trust: principal}"));
    assert_eq!(codes(&good.replace("include_peer_certificate: true", "include_peer_certificate: false"), Some(&believes)), []);
}

#[test]
fn every_code_has_a_test() {
    let shown: BTreeSet<_> = WEAK.iter().map(|(code, ..)| *code).chain(DISAGREEING.iter().map(|(code, ..)| *code)).collect();
    let elsewhere = [Code::FilterConditional, Code::EgressExposed];
    for code in Code::ALL.iter().filter(|code| !elsewhere.contains(code)) {
        assert!(shown.contains(code), "{}", code.as_str());
    }
}

#[test]
fn an_ext_proc_that_leads_elsewhere_is_not_ours_to_judge() {
    let other = generate::whole(&plan()).replace("failure_mode_allow: false", "failure_mode_allow: true");
    let (before, cluster) = other.split_once("  - name: doorward_streams").unwrap();
    let cluster = cluster.replacen("/run/doorward/envoy/authz.sock", "/run/other.sock", 1);
    assert_eq!(codes(&format!("{before}  - name: doorward_streams{cluster}"), None), [Code::FailureModeAllow]);
}

#[test]
fn a_filter_behind_a_matcher_is_found_and_looked_at() {
    let good = generate::whole(&Plan { streams: Vec::new(), ..plan() });
    let (before, rest) = good.split_once("          - name: envoy.filters.http.ext_authz\n").unwrap();
    let (filter, after) = rest.split_once("          - name: envoy.filters.http.router").unwrap();
    let inner: String = filter.lines().map(|line| format!("    {line}\n")).collect();
    let wrapped = format!(
        "          - name: envoy.filters.http.ext_authz\n            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher\n              xds_matcher: {{}}\n              extension_config:\n                name: inner\n{inner}"
    );
    let weak = format!("{before}{wrapped}          - name: envoy.filters.http.router{after}");
    assert_eq!(codes(&weak, None), [Code::FilterConditional]);
    assert_eq!(
        codes(&weak.replace("validate_mutations: true", "validate_mutations: false"), None),
        [Code::FilterConditional, Code::MutationsUnchecked]
    );
}

#[test]
fn what_is_generated_has_no_weakness() {
    let domain = "example.org".parse().ok();
    for placement in [Placement::Inbound, Placement::Egress, Placement::Gateway] {
        for xfcc in [false, true] {
            for certificates in [
                Certificates::Folder("/etc/envoy".into()),
                Certificates::Cluster("spire".to_owned()),
                Certificates::Files { certificate: "/a b/c.pem".into(), key: "/k.pem".into(), ca: "/r.pem".into() },
            ] {
                for trust_domain in [None, domain.clone()] {
                    for (admin, streams) in [(None, Vec::new()), (Some(9901), vec!["/a b/".to_owned(), "/c".to_owned()])] {
                        let host = if placement == Placement::Egress { [127, 0, 0, 1] } else { [0, 0, 0, 0] };
                        let plan = Plan {
                            placement,
                            listen: (host, 8443).into(),
                            xfcc,
                            upstream_tls: placement == Placement::Egress,
                            certificates: certificates.clone(),
                            trust_domain: trust_domain.clone(),
                            admin,
                            probe: admin.map(|port| port + 1),
                            streams,
                            ..plan()
                        };
                        assert_eq!(findings(&generate::whole(&plan), None), [], "{plan:?}");
                        assert_eq!(findings(&generate::piece(&plan), None), [], "{plan:?}");
                    }
                }
            }
        }
    }
    let public = Plan { certificate_optional: true, ..plan() };
    assert_eq!(codes(&generate::whole(&public), None), [Code::CertificateOptional]);
}

#[test]
fn an_egress_listener_that_others_reach_is_found() {
    let plan = Plan { placement: Placement::Egress, upstream_tls: true, xfcc: false, ..plan() };
    let exposed = generate::whole(&plan);
    assert_eq!(codes(&exposed, None), [Code::EgressExposed]);
    assert_eq!(
        codes(&exposed.replace("traffic_direction: OUTBOUND", "traffic_direction: OUTBOUND\n    bind_to_port: false"), None),
        []
    );
}

#[test]
fn a_finding_says_where_why_and_what_to_write() {
    let weak = generate::whole(&plan()).replacen("failure_mode_allow: false", "failure_mode_allow: true", 1);
    let [finding] = &findings(&weak, None)[..] else { panic!() };
    let line = weak.lines().position(|line| line.contains("failure_mode_allow")).unwrap() + 1;
    assert_eq!(finding.line, Some(line as u64));
    assert_eq!(
        finding.path,
        "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0].typed_config.failure_mode_allow"
    );
    assert!(finding.reason.contains("let through unasked") && finding.corrected == "failure_mode_allow: false", "{finding:?}");
}

#[test]
fn a_config_dump_is_read_wherever_its_parts_are() {
    let good = Document::parse(Path::new("e.yaml"), &generate::whole(&plan())).unwrap();
    let json = |node: Option<&Node>| to_json(node.unwrap());
    let resources = good.root.get("static_resources").unwrap();
    let [listener, _] = resources.list("listeners") else { panic!() };
    let mut listener = to_json(listener);
    let manager = listener.pointer_mut("/filter_chains/0/filters/0/typed_config").unwrap().as_object_mut().unwrap();
    let routes = manager.remove("route_config").unwrap();
    manager.insert("rds".to_owned(), serde_json::json!({"route_config_name": "inbound"}));
    let mut filter = manager["http_filters"][0].take();
    manager["http_filters"][0] = serde_json::json!({"name": filter["name"].take(), "config_discovery": {"type_urls": ["t/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"]}});
    filter["name"] = "envoy.filters.http.ext_authz".into();
    let dump = |filter: &serde_json::Value, routes: &serde_json::Value| {
        let clusters: Vec<_> =
            resources.list("clusters").iter().map(|cluster| serde_json::json!({"cluster": to_json(cluster)})).collect();
        serde_json::json!({"configs": [
            {"@type": "t/envoy.admin.v3.BootstrapConfigDump", "bootstrap": {"admin": json(good.root.get("admin")), "static_resources": {}}},
            {"@type": "t/envoy.admin.v3.ListenersConfigDump", "dynamic_listeners": [{"name": "a", "active_state": {"listener": listener}}]},
            {"@type": "t/envoy.admin.v3.ClustersConfigDump", "dynamic_active_clusters": clusters},
            {"@type": "t/envoy.admin.v3.RoutesConfigDump", "dynamic_route_configs": [{"route_config": routes}]},
            {"@type": "t/envoy.admin.v3.EcdsConfigDump", "ecds_filters": [{"ecds_filter": filter}]},
            {"@type": "t/envoy.admin.v9.SomethingNew", "x": 1},
        ]}).to_string()
    };
    assert_eq!(findings(&dump(&filter, &routes), None), []);
    let mut weak = filter.clone();
    weak["typed_config"]["failure_mode_allow"] = true.into();
    let [finding] = &findings(&dump(&weak, &routes), None)[..] else { panic!() };
    assert_eq!((finding.code, finding.line), (Code::FailureModeAllow, None));
    assert_eq!(finding.path, "configs[4].ecds_filters[0].ecds_filter.typed_config.failure_mode_allow");
    let mut weak = routes;
    weak["virtual_hosts"][0]["routes"][0]["typed_per_filter_config"]["envoy.filters.http.ext_authz"]["disabled"] = true.into();
    assert_eq!(codes(&dump(&filter, &weak), None), [Code::RouteDisabled]);
}

#[test]
fn unknown_fields_are_nobodys_mistake() {
    let newer = generate::whole(&plan())
        .replace("failure_mode_allow: false", "failure_mode_allow: false\n              field_of_1_99: {a: [1]}");
    assert_eq!(findings(&newer, None), []);
}

/// Scalars become text, which every field accepts.
fn to_json(node: &Node) -> serde_json::Value {
    use crate::config::Value;
    match &node.value {
        Value::Map(entries) => entries.iter().map(|(key, node)| (key.clone(), to_json(node))).collect(),
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Scalar(text) => text.as_str().into(),
        Value::Null => serde_json::Value::Null,
    }
}
