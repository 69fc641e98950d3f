//! Configurations as they are found in documentation and in clusters: each translation loads, and nothing is passed over
//! in silence.

use std::path::Path;

use super::*;
use crate::config::{Address, Compat, Config, Mode, Size, Source, file::parse};

/// The translation, the configuration that it is read as, and `kind setting` of each finding.
fn translated(text: &str) -> (Translation, Config, Vec<String>) {
    let translation = translate(text).unwrap();
    let config = parse(Path::new("doorward.yaml"), &translation.config);
    let config = config.unwrap_or_else(|error| panic!("{error}\n{}", translation.config));
    let word = |kind| match kind {
        Kind::Missing => "missing",
        Kind::Manual => "manual",
        Kind::Note => "note",
    };
    let found = translation.findings.iter().map(|finding| format!("{} {}", word(finding.kind), finding.setting)).collect();
    (translation, config, found)
}

#[test]
fn the_plugins_own_quick_start() {
    let (translation, config, found) = translated(
        r#"
plugins:
  envoy_ext_authz_grpc:
    addr: :9191
    path: istio/authz/allow
decision_logs:
  console: true
"#,
    );
    assert_eq!(config.listeners[0].address, "tcp://0.0.0.0:9191".parse::<Address>().unwrap());
    assert!(config.listeners[0].insecure);
    assert_eq!((config.policy.compat, config.policy.decision.as_str()), (Some(Compat::OpaEnvoy), "istio/authz/allow"));
    assert_eq!(found, ["manual bundles", "note plugins.envoy_ext_authz_grpc.addr"]);
    assert!(!translation.is_whole(), "the policy that `opa run` is given has still to be named");
    assert!(translation.config.contains("# As with the plugin"));
}

#[test]
fn a_bundle_service_with_token_and_logs() {
    let (translation, config, found) = translated(
        r#"
services:
  controller:
    url: https://opa.example.com/v1
    credentials: {bearer: {token_path: /var/run/token}}
bundles:
  authz:
    service: controller
    resource: bundles/http/authz.tar.gz
    persist: true
    polling: {min_delay_seconds: 10, max_delay_seconds: 20}
    size_limit_bytes: 1000000
persistence_directory: /var/opa
decision_logs:
  service: controller
  partition_name: eu
  mask_decision: /system/log/mask
  drop_decision: /logs/drop
  reporting: {min_delay_seconds: 5, max_delay_seconds: 10, upload_size_limit_bytes: 65536, buffer_size_limit_bytes: 40000}
labels: {environment: production, region: eu-1}
nd_builtin_cache: true
distributed_tracing: {type: grpc, address: "collector:4317", sample_percentage: 10}
plugins:
  envoy.ext_authz.grpc:
    addr: unix:///run/opa/authz.sock
    dry-run: true
    enable-reflection: true
    proto-descriptor: /etc/opa/services.pb
    grpc-max-recv-msg-size: 1048576
    skip-request-body-parse: true
"#,
    );
    let bundle = config.policy.bundles[0].download().unwrap();
    assert_eq!((bundle.name.as_str(), bundle.url.as_str()), ("authz", "https://opa.example.com/v1/bundles/http/authz.tar.gz"));
    assert_eq!(bundle.token_file.as_deref(), Some(Path::new("/var/run/token")));
    assert_eq!((bundle.poll.min.to_string(), bundle.poll.max.to_string()), ("10s".to_owned(), "20s".to_owned()));
    assert_eq!(config.policy.cache.as_deref(), Some(Path::new("/var/opa")));
    assert_eq!(config.policy.limits.total.bytes(), 1_000_000);
    let upload = config.records.upload.unwrap();
    assert_eq!(upload.address().as_str(), "https://opa.example.com/v1/logs/eu");
    assert_eq!((upload.mask.as_deref(), upload.drop.as_deref()), (None, Some("logs/drop")));
    assert_eq!((upload.upload_size_limit, upload.buffer.bytes()), (Size::kib(64), 65536));
    assert_eq!(upload.labels["region"], "eu-1");
    let otlp = config.telemetry.otlp.unwrap();
    assert_eq!((otlp.endpoint.as_str(), otlp.sample, otlp.metrics), ("http://collector:4317/", 0.1, false));
    assert_eq!((config.mode, config.listeners[0].reflection), (Mode::Observe, true));
    assert_eq!(config.policy.proto_descriptor.as_deref(), Some(Path::new("/etc/opa/services.pb")));
    assert_eq!((config.limits.message, config.listeners[0].skip_body_parse), (Size::mib(1), true));
    assert_eq!(found, ["manual plugins.envoy.ext_authz.grpc.addr", "note decision_logs.drop_decision", "note nd_builtin_cache"]);
    assert!(!translation.is_whole());
}

#[test]
fn mutual_tls_signatures_and_several_services() {
    let (_, config, found) = translated(
        r#"{
  "services": [
    {"name": "bundles", "url": "https://b.example/", "tls": {"ca_cert": "/tls/ca.pem"},
     "credentials": {"client_tls": {"cert": "/tls/c.pem", "private_key": "/tls/c.key", "private_key_passphrase": "x"}}},
    {"name": "logs", "url": "http://l.example", "headers": {"x-team": "a"}, "credentials": {"bearer": {"token": "secret"}}}
  ],
  "keys": {
    "release": {"algorithm": "ES256", "key": "-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----", "scope": "write"},
    "odd": {"algorithm": "ES512", "key": "-----BEGIN PUBLIC KEY-----"}
  },
  "bundles": {
    "istio/authz": {"service": "bundles", "signing": {"keyid": "release", "exclude_files": ["*.md"]}},
    "local": {"resource": "file:///srv/bundle.tar.gz"}
  },
  "decision_logs": {"service": "logs", "reporting": {"buffer_type": "event", "buffer_size_limit_events": 10, "trigger": "immediate"}},
  "plugins": {"envoy_ext_authz_grpc": {"addr": "grpc://localhost:9000", "query": "data.istio.authz.allow"}}
}"#,
    );
    let bundle = &config.policy.bundles[0];
    let download = bundle.download().unwrap();
    assert_eq!((download.name.as_str(), download.url.as_str()), ("istio-authz", "https://b.example/bundles/istio/authz"));
    assert_eq!(download.tls.as_ref().unwrap().files().unwrap().key, Path::new("/tls/c.key"));
    assert_eq!(download.ca.as_deref(), Some(Path::new("/tls/ca.pem")));
    let signing = config.policy.signing_of(bundle).unwrap();
    assert_eq!((signing.keyid.as_deref(), signing.scope.as_deref()), (Some("release"), Some("write")));
    assert_eq!(
        (signing.exclude, signing.keys["release"].key_file.as_path()),
        (vec!["*.md".to_owned()], Path::new("keys/release"))
    );
    assert_eq!(config.policy.bundles[1].source, Source::Path("/srv/bundle.tar.gz".into()));
    assert_eq!(config.policy.decision, "istio/authz/allow");
    let upload = config.records.upload.unwrap();
    assert!(upload.insecure && upload.token_file.as_deref() == Some(Path::new("tokens/logs")));
    assert_eq!(
        found,
        [
            "missing decision_logs.reporting.trigger",
            "missing keys.odd.algorithm",
            "missing services.0.credentials.client_tls.private_key_passphrase",
            "missing services.1.headers",
            "manual keys.release.key",
            "manual services.1.credentials.bearer.token",
            "note bundles.istio/authz",
            "note bundles.local.signing",
            "note decision_logs.reporting.buffer_size_limit_events",
            "note plugins.envoy_ext_authz_grpc.addr",
        ]
    );
}

#[test]
fn what_has_no_counterpart_is_named_with_what_to_do() {
    let (translation, _, found) = translated(
        r#"
services:
  s3: {url: "https://bucket.s3.amazonaws.com", credentials: {s3_signing: {environment_credentials: {}}}}
  env: {url: "${LOG_URL}", credentials: {oauth2: {token_url: "https://t", client_id: a, client_secret: b}}}
bundle: {name: old, service: s3, trigger: manual}
discovery: {resource: /d, service: s3}
status: {service: s3, prometheus: true}
decision_logs: {service: env, request_context: {http: {headers: [x]}}, plugin: mine, reporting: {max_decisions_per_second: 10}}
caching: {inter_query_builtin_cache: {max_size_bytes: 1}}
server: {encoding: {gzip: {min_length: 1}}, surprise: 1}
default_decision: /x
storage: {disk: {directory: /x}}
distributed_tracing: {type: http, encryption: tls, service_name: opa, resource: {service_namespace: a}, tls_ca_cert_file: c}
plugins:
  envoy_ext_authz_grpc: {addr: "dns:///opa", path: "", addres: typo}
  my_plugin: {a: 1}
surprise: {deep: {er: 1}}
"#,
    );
    let expected = [
        "missing bundle.trigger",
        "missing caching",
        "missing decision_logs.plugin",
        "missing decision_logs.reporting.max_decisions_per_second",
        "missing decision_logs.request_context",
        "missing default_decision",
        "missing discovery",
        "missing distributed_tracing.encryption",
        "missing distributed_tracing.tls_ca_cert_file",
        "missing distributed_tracing.type",
        "missing plugins.envoy_ext_authz_grpc.addres",
        "missing plugins.my_plugin",
        "missing server",
        "missing services.env.credentials.oauth2",
        "missing services.s3.credentials.s3_signing",
        "missing status",
        "missing storage",
        "missing surprise.deep.er",
        "manual distributed_tracing.resource.service_namespace",
        "manual distributed_tracing.service_name",
        "manual plugins.envoy_ext_authz_grpc.addr",
        "manual services.env.url",
        "manual services.env.url",
    ];
    assert_eq!(found, expected);
    assert!(translation.findings.iter().all(|finding| !finding.reason.is_empty() && !finding.remedy.is_empty()));
}

#[test]
fn an_unconfigured_part_of_opa_is_translated_to_its_default() {
    let (translation, config, found) = translated(
        "services: {a: {url: 'https://a.example'}}\nbundles: {main: {}}\nplugins: {envoy_ext_authz_grpc: {addr: 'unix://@authz'}}\n",
    );
    assert_eq!(config.policy.bundles[0].download().unwrap().url.as_str(), "https://a.example/bundles/main");
    assert_eq!(config.policy.decision, "envoy/authz/allow");
    assert_eq!(found, ["manual plugins.envoy_ext_authz_grpc.addr"]);
    let tcp = translate("services: {a: {url: 'https://a.example'}}\nbundles: {main: {}}\nplugins: {envoy_ext_authz_grpc: {}}\n")
        .unwrap();
    assert!(tcp.is_whole() && !translation.is_whole());
}

#[test]
fn what_is_no_configuration_is_refused() {
    assert!(matches!(translate("a: [b"), Err(OpaError::Syntax(_))));
    for text in ["", "{}", "[]", "text"] {
        assert!(matches!(translate(text), Err(OpaError::NoSettings)), "{text}");
    }
}
