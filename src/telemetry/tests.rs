//! A collector that misbehaves, and the names on the metrics page.

use std::time::Instant;

use tokio::net::TcpListener;
use tonic::Code;

use super::{
    metrics::{RecordKind, RecordResult, Reload, Stage, Transport},
    trace::{Facts, TraceHeaders},
    *,
};
use crate::{
    clock,
    verdict::{Class, Decision, Mode, Protocol, Reason, Tier},
};

fn otlp(endpoint: &str) -> config::Telemetry {
    let text = format!("{{\"endpoint\": \"{endpoint}\", \"interval\": \"50ms\"}}");
    config::Telemetry { otlp: Some(serde_json::from_str(&text).expect("a configuration")), log: config::LogFormat::Text }
}

fn facts() -> Facts<'static> {
    Facts {
        decision: Decision::Deny,
        enforced: true,
        reason: Reason::Policy,
        mode: Mode::Enforce,
        protocol: Protocol::Http,
        decision_id: uuid::Uuid::nil(),
        policy_path: "envoy/authz/allow",
        revision: Some("r1"),
        rule: None,
        method: Some("GET"),
        action: None,
        class: Class::Unknown,
        tier: Tier::None,
        risk: None,
        decide: Duration::from_micros(10)..Duration::from_micros(40),
        elapsed: Duration::from_micros(60),
        code: Code::Ok,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_page_names_every_instrument() {
    let telemetry = Telemetry::start(&config::Telemetry::default(), "i").expect("started");
    let metrics = telemetry.metrics();
    metrics.decided(Decision::Deny, Reason::SvidExpired, Protocol::Grpc, Mode::Observe);
    metrics.call_answered(Code::Ok, Duration::from_micros(80));
    metrics.stage(Stage::Policy, Duration::from_micros(20));
    metrics.recorded(RecordKind::Decision, RecordResult::Dropped, 3);
    metrics.records_queued(7);
    metrics.policy_reloaded(Reload::Refused);
    metrics.policy_loaded(clock::Now::from_seconds(1_700_000_000));
    metrics.trust_reloaded(Reload::Loaded);
    metrics.config_reloaded(Reload::Unchanged);
    metrics.caller_refused(Transport::Unix);
    let waiting = metrics.check_waits();
    let page = telemetry.page().text();
    for line in [
        "doorward_decisions_total{decision=\"deny\",mode=\"observe\",protocol=\"grpc\",reason=\"svid_expired\"} 1",
        "rpc_server_call_duration_seconds_count{rpc_method=\"envoy.service.auth.v3.Authorization/Check\"",
        "doorward_stage_duration_seconds_count{stage=\"policy\"} 1",
        "doorward_records_total{kind=\"decision\",result=\"dropped\"} 3",
        "doorward_records_total{kind=\"gap\",result=\"written\"} 0",
        "doorward_records_queue 7",
        "doorward_policy_reloads_total{result=\"refused\"} 1",
        "doorward_policy_loaded_seconds 1700000000",
        "doorward_trust_reloads_total{result=\"loaded\"} 1",
        "doorward_config_reloads_total{result=\"unchanged\"} 1",
        "doorward_callers_refused_total{listener=\"unix\"} 1",
        "doorward_checks_waiting 1",
        "doorward_build_info{version=",
        "service_name=\"doorward\"",
    ] {
        assert!(page.contains(line), "{line} is missing in\n{page}");
    }
    assert!(!page.contains("reason=\"policy\""), "what never happened is not exported");
    drop(waiting);
    assert!(telemetry.page().text().contains("doorward_checks_waiting 0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_counted_by_rule_and_rules_are_bounded() {
    let telemetry = Telemetry::start(&config::Telemetry::default(), "i").expect("started");
    let metrics = telemetry.metrics();
    let has = |line: &str| telemetry.page().text().lines().any(|found| found.starts_with(line));
    assert!(has("doorward_policy_limit_total{limit=\"time\",rule=\"other\"} 0"));
    metrics.policy_failed(Reason::PolicyError, "a.rego:1");
    for line in 0..110 {
        metrics.policy_failed(Reason::PolicyTimeout, &format!("a.rego:{line}"));
    }
    metrics.policy_failed(Reason::PolicyTimeout, "a.rego:7");
    assert!(has("doorward_policy_limit_total{limit=\"time\",rule=\"a.rego:7\"} 2"));
    assert!(has("doorward_policy_limit_total{limit=\"time\",rule=\"other\"} 10"));
    metrics.policy_loaded(clock::Now::from_seconds(1));
    metrics.policy_failed(Reason::PolicyTimeout, "a.rego:105");
    assert!(has("doorward_policy_limit_total{limit=\"time\",rule=\"a.rego:105\"} 1"), "another policy has other rules");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_delays_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = silent.local_addr().expect("an address");
    let held = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = silent.accept().await {
            held.push(connection);
        }
    });
    let refused = "http://127.0.0.1:1".to_owned();
    for endpoint in [format!("http://{address}"), refused] {
        let telemetry = Telemetry::start(&otlp(&endpoint), "i").expect("started");
        let (tracer, metrics) = (telemetry.tracer(), telemetry.metrics());
        let begun = Instant::now();
        for _ in 0..2 * QUEUE {
            let span = tracer.check(clock::now(), TraceHeaders::default(), TraceHeaders::default());
            assert!(span.ids().is_some());
            metrics.decided(Decision::Deny, Reason::Policy, Protocol::Http, Mode::Enforce);
            span.finish(&facts());
        }
        let mean = begun.elapsed() / u32::try_from(2 * QUEUE).expect("fits");
        assert!(mean < Duration::from_millis(1), "{mean:?} a Check");
        let begun = Instant::now();
        telemetry.shutdown(Duration::from_millis(300)).await;
        assert!(begun.elapsed() < Duration::from_secs(3), "shutdown took {:?}", begun.elapsed());
    }
    held.abort();
}
