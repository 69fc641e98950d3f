//! What an independent OTLP receiver (rotel) sees: Envoy's span as the parent of ours, our metrics, our log events.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::harness::{
    client::Http,
    doorward::{Doorward, Setup},
    envoy::{Envoy, HTTP2, Options, cluster},
    eventually, peer, upstream,
};

struct Collector {
    child: Child,
    folder: TempDir,
    grpc: SocketAddr,
}

impl Collector {
    fn start() -> Option<Self> {
        let binary = peer("rotel", "rotel/rotel-agent")?;
        let folder = TempDir::new().unwrap();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (grpc, http) = (free(), free());
        let log = File::create(folder.path().join("log")).unwrap();
        let child = Command::new(binary)
            .args(["start", "--exporter", "blackhole", "--debug-log-verbosity", "detailed"])
            .args(["--debug-log", "traces", "--debug-log", "metrics", "--debug-log", "logs"])
            .args(["--otlp-grpc-endpoint", &grpc.to_string(), "--otlp-http-endpoint", &http.to_string()])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        eventually("the collector", || std::net::TcpStream::connect(grpc).ok());
        Some(Self { child, folder, grpc })
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("--- the collector's log\n{}", &log[log.len().saturating_sub(20_000)..]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_joins_envoy_and_doorward() {
    let Some(collector) = Collector::start() else { return };
    let telemetry = format!("telemetry: {{log: json, otlp: {{endpoint: \"http://{}\", interval: 1s}}}}\n", collector.grpc);
    let doorward = Doorward::start(&Setup {
        policy: Some("package envoy.authz\nallow := {\"allowed\": true, \"rule\": \"everyone\"}\n"),
        top: &telemetry,
        env: &[("OTEL_BSP_SCHEDULE_DELAY", "200"), ("OTEL_BLRP_SCHEDULE_DELAY", "200")],
        ..Setup::default()
    });
    doorward.wait_ready();
    let manager = "          tracing:
            random_sampling: {value: 100}
            provider:
              name: envoy.tracers.opentelemetry
              typed_config:
                \"@type\": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig
                grpc_service: {envoy_grpc: {cluster_name: collector}, timeout: 1s}
                service_name: envoy
";
    let clusters = cluster("collector", collector.grpc, HTTP2);
    let options = Options { manager, clusters: &clusters, ..Options::default() };
    let Some(envoy) = Envoy::start(&doorward, upstream::http().await, upstream::echo().await, &options) else { return };
    let client = envoy.client(&doorward, Some(&doorward.ca.svid("spiffe://example.org/a")), Http::One);
    assert_eq!(client.get("/").await.status, 200);

    let record = eventually("the record", || doorward.decisions().pop());
    let (trace, span) =
        (record["body"]["trace_id"].as_str().unwrap().to_owned(), record["body"]["span_id"].as_str().unwrap().to_owned());
    let spans = eventually("the spans at the collector", || {
        let spans = spans(&collector.log(), &trace);
        (spans.iter().any(|it| it.id == span) && spans.len() >= 4).then_some(spans)
    });
    let ours = spans.iter().find(|it| it.id == span).unwrap();
    assert_eq!(ours.name, "envoy.service.auth.v3.Authorization/Check");
    let parent = spans.iter().find(|it| it.id == ours.parent).unwrap_or_else(|| panic!("the parent of {ours:?} in {spans:?}"));
    assert!(parent.name.contains("Authorization.Check egress"), "Envoy's span of its call to us: {parent:?}");
    assert!(spans.iter().any(|it| it.parent == span && it.name == "authz.decide"), "{spans:?}");
    let id = record["id"].as_str().unwrap();
    eventually("the log event and the metrics", || {
        let log = collector.log();
        (log.contains("doorward.decisions") && log.matches(id).count() >= 2).then_some(())
    });
}

#[derive(Debug)]
struct Span {
    id: String,
    parent: String,
    name: String,
}

/// The spans of a trace in the collector's log: each begins with `Span #`, then has a line `Name : value` a field.
fn spans(log: &str, trace: &str) -> Vec<Span> {
    let field = |block: &str, name: &str| {
        let line = block.lines().find(|line| line.trim_start().starts_with(name) && line.contains(':'));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let blocks = log.split("Span #").skip(1).filter(|block| field(block, "Trace ID") == trace);
    blocks.map(|block| Span { id: field(block, "ID"), parent: field(block, "Parent ID"), name: field(block, "Name") }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_refuses_or_is_gone_changes_nothing() {
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for endpoint in [hanging.local_addr().unwrap(), gone] {
        let telemetry = format!("telemetry: {{log: json, otlp: {{endpoint: \"http://{endpoint}\", interval: 1s}}}}\n");
        let mut doorward =
            Doorward::start(&Setup { policy: Some("package envoy.authz\nallow := true\n"), top: &telemetry, ..Setup::default() });
        doorward.wait_ready();
        let channel = doorward.channel().await;
        for _ in 0..200 {
            let check = crate::harness::check::Check::http("GET", "/").0;
            let answer = crate::harness::doorward::check(channel.clone(), check).await.unwrap();
            assert_eq!(crate::harness::check::Answer::read(answer).code, 0);
        }
        eventually("200 records", || (doorward.decisions().len() == 200).then_some(()));
        assert!(doorward.stop().success(), "it stops although nothing can be flushed");
    }
}
