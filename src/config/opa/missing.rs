//! What has no counterpart, and why.

use serde_json::Value;

use super::{Findings, joined};

/// Path with `*` for a name, reason, and what to do.
type Entry = (&'static str, &'static str, &'static str);

const HTTP_SEND: &str = "a policy that asks the network while a call waits is refused at load";
const REST: &str = "Doorward has no REST API; Envoy asks it over gRPC";
const CLOUD: &str = "Doorward signs no requests to a cloud";

const MISSING: &[Entry] = &[
    ("services.*.headers", "requests carry no headers of your own", "let a proxy on the way add them"),
    (
        "services.*.type",
        "bundles are fetched over HTTPS, not from an OCI registry",
        "serve the bundle over HTTPS, or mount it and name a `path`",
    ),
    (
        "services.*.credentials.oauth2",
        "Doorward fetches no token",
        "let an agent on the host write a token to a file, and name it in `token_file`",
    ),
    (
        "services.*.credentials.s3_signing",
        CLOUD,
        "mount the bundle with the cloud's own tools and name a `path`, or serve it over HTTPS",
    ),
    (
        "services.*.credentials.gcp_metadata",
        CLOUD,
        "let an agent on the host write a token to a file, and name it in `token_file`",
    ),
    (
        "services.*.credentials.azure_managed_identity",
        CLOUD,
        "let an agent on the host write a token to a file, and name it in `token_file`",
    ),
    ("services.*.credentials.plugin", "there are no plugins", "use `token_file` or `tls`"),
    (
        "services.*.credentials.client_tls.private_key_passphrase",
        "keys are read as they are",
        "decrypt the key into a file that Doorward alone may read",
    ),
    ("keys.*.private_key", "it belongs to a credential that has no counterpart", "see the service that names it"),
    (
        "bundles.*.polling.long_polling_timeout_seconds",
        "servers are asked again and again, and nothing is held open",
        "set a short `poll`",
    ),
    ("bundles.*.trigger", "bundles are fetched by the clock, and at once on SIGHUP", "send SIGHUP to fetch now"),
    ("bundle.trigger", "bundles are fetched by the clock, and at once on SIGHUP", "send SIGHUP to fetch now"),
    ("bundles.*.signing.allow_unsigned_delta_bundles", "there are no delta bundles", "serve snapshots"),
    (
        "discovery",
        "the configuration is this file, which nobody else can change",
        "translate the configuration that the discovery bundle yields, and roll it out as files",
    ),
    ("status", "nobody is told; who wants to know asks", "read /readyz and /metrics at `operations.address`"),
    ("labels", "labels stand in uploaded decisions alone, and none are uploaded", "set OTEL_RESOURCE_ATTRIBUTES for telemetry"),
    (
        "decision_logs.plugin",
        "there are no plugins",
        "read the records from a file, standard output or OTLP, or let `records.upload` send them",
    ),
    ("decision_logs.request_context", REST, "the headers of the request that Envoy asks about are in `input` of each event"),
    (
        "decision_logs.reporting.max_decisions_per_second",
        "every decision is recorded; what waits is bounded in bytes",
        "set `records.upload.buffer`, or withhold events with `data.system.log.drop`",
    ),
    ("decision_logs.service", "no such service", "set `records.upload.url`"),
    ("plugins.envoy_ext_authz_grpc.query", "`path` is there too, which OPA refuses", "keep one of the two"),
    (
        "plugins.*.grpc-max-send-msg-size",
        "answers are as large as the policy makes them, within limits of their own",
        "nothing to do",
    ),
    (
        "plugins.*.grpc-request-duration-seconds-buckets",
        "the bounds of histograms are fixed, from 25 µs to 100 ms",
        "nothing to do",
    ),
    ("caching", HTTP_SEND, "bring the data in a bundle"),
    ("default_decision", REST, "name the rule that decides in `policy.decision`"),
    ("default_authorization_decision", REST, "who may call a listener stands under `listeners[].callers`"),
    ("server", REST, "`/livez`, `/readyz` and `/metrics` are at `operations.address`"),
    ("storage", "policy and data are held in memory", "nothing to do, or split what does not fit"),
    ("metrics_export", "OPA's own metrics are not ours", "set `telemetry.otlp` with `metrics: true`, or scrape /metrics"),
    (
        "distributed_tracing.batch_span_processor_options",
        "the exporter is configured by the environment",
        "set OTEL_BSP_SCHEDULE_DELAY and its kin",
    ),
    (
        "distributed_tracing.exclude_paths",
        "health checks are not traced in any case",
        "let the collector drop what is not wanted",
    ),
    ("distributed_tracing.allow_insecure_tls", "Doorward speaks OTLP without TLS", "send to a collector on the same host"),
    ("distributed_tracing.tls_cert_file", "Doorward speaks OTLP without TLS", "send to a collector on the same host"),
    ("distributed_tracing.tls_private_key_file", "Doorward speaks OTLP without TLS", "send to a collector on the same host"),
    ("distributed_tracing.tls_ca_cert_file", "Doorward speaks OTLP without TLS", "send to a collector on the same host"),
];

/// Names what was left over at `path`: as a whole where the table knows the whole, else each setting in it.
pub(super) fn name(path: &str, value: &Value, findings: &mut Findings) {
    let known = MISSING.iter().find(|(pattern, ..)| fits(pattern, path));
    match value {
        Value::Object(members) if known.is_none() => {
            members.iter().for_each(|(key, value)| name(&joined(path, key), value, findings))
        }
        Value::Object(members) if members.is_empty() => {}
        _ => {
            let unknown = (
                "",
                "Doorward does not know this setting, or not in this form",
                "look for its meaning in deploy/coming-from-opa.md",
            );
            let (_, reason, remedy) = known.unwrap_or(&unknown);
            findings.missing(path, reason, remedy);
        }
    }
}

/// Names may have dots themselves, so `*` stands for any text.
fn fits(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((before, after)) => {
            path.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).is_some_and(|name| !name.is_empty())
        }
    }
}
