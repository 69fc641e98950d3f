//! The process: where it listens and whom it lets in, how it starts, reloads and stops, and what the command line says.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::{Command, Output},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::harness::{
    check::{Answer, Check},
    doorward::{Doorward, Setup, channel, check},
    eventually,
};

const ALLOW: &str = "package envoy.authz\nallow := true\n";
const DENY: &str = "package envoy.authz\nallow := false\n";

fn doorward(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_doorward")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn d59_sockets_are_replaced_when_stale_and_have_their_mode() {
    let mut doorward = Doorward::start(&Setup { policy: Some(ALLOW), listener: "  socket_mode: \"0600\"\n", ..Setup::default() });
    doorward.wait_ready();
    assert_eq!(fs::metadata(doorward.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    let config = doorward.path("doorward.yaml");
    let second = self::doorward(&["serve", "--config", config.to_str().unwrap()]);
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("--take-over"), "{}", text(&second.stderr));
    doorward.signal(Signal::SIGKILL);
    doorward.stop();
    assert!(doorward.socket().exists(), "a killed process leaves its socket behind");
    doorward.start_again(&Setup::default(), 1).wait().unwrap();
    assert_eq!(Answer::read(doorward.check(Check::http("GET", "/").0).await.unwrap()).code, 0);
    doorward.stop();
    assert!(!doorward.socket().exists(), "a stopped process takes its socket away");
}

#[tokio::test(flavor = "multi_thread")]
async fn d59_abstract_sockets_and_tcp() {
    let name = format!("doorward-test-{}", std::process::id());
    let listener = format!("- address: unix://@{name}\n- address: tcp://127.0.0.1:0\n  insecure: true\n");
    let doorward = Doorward::start(&Setup { policy: Some(ALLOW), listener: &listener, ..Setup::default() });
    doorward.wait_ready();
    assert_eq!(doorward.readyz()["insecure"], json!(["tcp://127.0.0.1:0"]));
    let port =
        doorward.log().split("tcp://127.0.0.1:").nth(1).and_then(|rest| rest.split('"').next().map(str::to_owned)).unwrap();
    let tcp = tonic::transport::Endpoint::new(format!("http://127.0.0.1:{port}")).unwrap().connect().await.unwrap();
    assert_eq!(Answer::read(check(tcp, Check::http("GET", "/").0).await.unwrap()).code, 0);
    let connect = tower::service_fn(move |_| {
        let address = {
            use std::os::linux::net::SocketAddrExt as _;
            std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap()
        };
        async move {
            let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
            stream.set_nonblocking(true)?;
            tokio::net::UnixStream::from_std(stream).map(hyper_util::rt::TokioIo::new)
        }
    });
    let hidden = tonic::transport::Endpoint::from_static("http://doorward").connect_with_connector(connect).await.unwrap();
    assert_eq!(Answer::read(check(hidden, Check::http("GET", "/").0).await.unwrap()).code, 0);
}

/// Where the child of [`a_process_of_another_user_is_refused`] finds the socket.
const STRANGER: &str = "DOORWARD_TEST_STRANGER";

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_another_user_is_refused() {
    if let Some(socket) = std::env::var_os(STRANGER) {
        // The child: a perfect request, from a process that the listener does not name.
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
        });
        let channel = tonic::transport::Endpoint::from_static("http://doorward").connect_with_connector_lazy(connect);
        let mut client = HealthClient::new(channel.clone());
        assert!(client.check(HealthCheckRequest::default()).await.is_err(), "even health is not told");
        let mut client = tonic::client::Grpc::new(channel);
        if client.ready().await.is_ok() {
            let path = http::uri::PathAndQuery::from_static("/envoy.service.auth.v3.Authorization/Check");
            let codec: tonic_prost::ProstCodec<_, envoy_types::ext_authz::v3::pb::CheckResponse> =
                tonic_prost::ProstCodec::default();
            let victim = Check::http("GET", "/").principal("spiffe://example.org/victim").0;
            assert!(client.unary(tonic::Request::new(victim), path, codec).await.is_err());
        }
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can start a process of another user");
        return;
    }
    let doorward = Doorward::start(&Setup { policy: Some(ALLOW), listener: "  socket_mode: \"0666\"\n", ..Setup::default() });
    doorward.wait_ready();
    fs::set_permissions(doorward.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = doorward.path("stranger");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let child = Command::new(&program)
        .args(["process::a_process_of_another_user_is_refused", "--exact", "--nocapture"])
        .env(STRANGER, doorward.socket())
        .current_dir("/")
        .uid(65_534)
        .gid(65_534)
        .output()
        .unwrap();
    assert!(child.status.success(), "{}{}", text(&child.stdout), text(&child.stderr));
    assert!(text(&child.stdout).contains("1 passed"), "{}", text(&child.stdout));
    assert!(doorward.metric("doorward_callers_refused_total", &["unix"]) >= 1.0);
    assert_eq!(doorward.decisions(), [] as [Value; 0], "nothing is recorded against the victim");
    assert!(doorward.log().contains("65534"), "the log names the user");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_the_policy_and_draining() {
    let mut doorward = Doorward::start(&Setup { top: "limits: {grace: 2s, drain: 2s}\n", ..Setup::default() });
    let mut client = HealthClient::new(doorward.channel().await);
    let mut status = async |service: &str| {
        let request = HealthCheckRequest { service: service.to_owned() };
        client.check(request).await.map(|answer| answer.into_inner().status)
    };
    const SERVING: i32 = 1;
    const NOT_SERVING: i32 = 2;
    for service in ["", "envoy.service.auth.v3.Authorization"] {
        assert_eq!(status(service).await.unwrap(), NOT_SERVING, "no policy is in force");
    }
    doorward.replace_policy(ALLOW);
    doorward.wait_ready();
    for _ in 0..200 {
        if status("").await.unwrap() == SERVING {
            break;
        }
    }
    assert_eq!(status("envoy.service.auth.v3.Authorization").await.unwrap(), SERVING);
    doorward.signal(Signal::SIGTERM);
    let ready = eventually("draining", || (doorward.get("/readyz").0 == 503).then(|| doorward.readyz()));
    assert_eq!(ready["obstacle"], "draining");
    assert_eq!(status("").await.unwrap(), NOT_SERVING);
    let call = check(doorward.channel().await, Check::http("GET", "/").0).await;
    assert_eq!(Answer::read(call.unwrap()).code, 0, "calls are answered during the grace");
    assert!(doorward.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_is_off_unless_asked_for() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
    };
    for (listener, there) in [("", false), ("  reflection: true\n", true)] {
        let doorward = Doorward::start(&Setup { policy: Some(ALLOW), listener, ..Setup::default() });
        doorward.wait_ready();
        let mut client = ServerReflectionClient::new(doorward.channel().await);
        let ask =
            ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
        let answer = client.server_reflection_info(tokio_stream::once(ask)).await;
        let services = match answer {
            Ok(stream) => format!("{:?}", stream.into_inner().message().await),
            Err(_) => String::new(),
        };
        assert_eq!(services.contains("envoy.service.auth.v3.Authorization"), there, "{services}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_on_disk_is_in_force_within_a_second_and_deletion_changes_nothing() {
    let doorward = Doorward::start(&Setup { policy: Some(DENY), ..Setup::default() });
    doorward.wait_ready();
    let code = async || Answer::read(doorward.check(Check::http("GET", "/").0).await.unwrap()).code;
    assert_eq!(code().await, 7);
    let began = std::time::Instant::now();
    fs::write(doorward.path("policy/policy.rego"), ALLOW).unwrap();
    eventually("the new policy", || (doorward.metric("doorward_policy_reloads_total", &["loaded"]) >= 2.0).then_some(()));
    assert!(began.elapsed() < std::time::Duration::from_secs(1), "took {:?}", began.elapsed());
    assert_eq!(code().await, 0);
    fs::remove_dir_all(doorward.path("policy")).unwrap();
    eventually("the loss to be noticed", || doorward.readyz()["policy"]["last_error"].is_object().then_some(()));
    assert_eq!((code().await, doorward.get("/readyz").0), (0, 200));
    // The writer is a moment behind what `/readyz` says.
    let of_policy = || doorward.records().iter().filter(|record| record["kind"] == "policy").count();
    eventually("a record of each change of policy", || (of_policy() >= 3).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_reloads_on_change_and_says_what_cannot() {
    let doorward = Doorward::start(&Setup { policy: Some(DENY), ..Setup::default() });
    doorward.wait_ready();
    let path = doorward.path("doorward.yaml");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{good}mode: observe\n")).unwrap();
    eventually("observe", || (doorward.readyz()["mode"] == "observe").then_some(()));
    assert_eq!(Answer::read(doorward.check(Check::http("GET", "/").0).await.unwrap()).code, 0);
    fs::write(&path, format!("{good}mode: everything\n")).unwrap();
    eventually("the refusal", || doorward.readyz()["config"]["refused"].is_string().then_some(()));
    assert_eq!(doorward.readyz()["mode"], "observe");
    fs::write(&path, good.replace("decision: 1s", "decision: 2s")).unwrap();
    doorward.signal(Signal::SIGHUP);
    eventually("enforce", || (doorward.readyz()["mode"] == "enforce").then_some(()));
    assert!(doorward.log().contains("\"keys\":\"limits\""), "{}", doorward.log());
    assert_eq!(doorward.readyz()["config"]["needs_restart"], "limits");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_callers_are_admitted_by_spiffe_id() {
    let folder = tempfile::TempDir::new().unwrap();
    // The certificate has to be there before the process starts, so this authority is not the harness's.
    let ca = crate::harness::ca::Ca::new("mesh.test");
    fs::write(folder.path().join("ca.pem"), &ca.pem).unwrap();
    let server = ca.leaf(|params| {
        params.subject_alt_names = vec![
            crate::harness::ca::uri("spiffe://mesh.test/doorward"),
            rcgen::SanType::DnsName("localhost".try_into().unwrap()),
        ];
    });
    let (certificate, key) = server.write(folder.path(), "server");
    let listener = format!(
        "- address: tcp://127.0.0.1:0\n  tls: {{certificate: {}, key: {}}}\n  callers: {{spiffe_ids: [\"spiffe://mesh.test/envoy\"]}}\n",
        certificate.display(),
        key.display()
    );
    let trust = format!("trust: {{domains: {{mesh.test: {{bundle: {}}}}}}}\n", folder.path().join("ca.pem").display());
    let doorward = Doorward::start(&Setup { policy: Some(ALLOW), listener: &listener, top: &trust, ..Setup::default() });
    doorward.wait_ready();
    let port: u16 =
        doorward.log().split("tcp://127.0.0.1:").nth(1).and_then(|rest| rest.split('"').next()?.parse().ok()).unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    for (leaf, admitted) in [
        (Some(ca.svid("spiffe://mesh.test/envoy")), true),
        (Some(ca.svid("spiffe://mesh.test/other")), false),
        (Some(crate::harness::ca::Ca::new("mesh.test").svid("spiffe://mesh.test/envoy")), false),
        (None, false),
    ] {
        let client = crate::harness::client::Client::new(address, &ca, leaf.as_ref(), crate::harness::client::Http::Two);
        let connect = tower::service_fn(move |_| {
            let client = client.clone();
            async move { Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(client.connect().await)) }
        });
        let channel = tonic::transport::Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect);
        let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
        assert_eq!(answer.is_ok(), admitted, "{answer:?}");
    }
    eventually("three refusals", || (doorward.metric("doorward_callers_refused_total", &["tls"]) >= 3.0).then_some(()));
    fs::write(&certificate, "no PEM").unwrap();
    eventually("the refusal", || doorward.readyz()["certificates"]["refused"].is_string().then_some(()));
}

#[test]
fn the_command_line_says_what_it_does_and_what_is_wrong() {
    let help = doorward(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    insta::assert_snapshot!(text(&help.stdout));
    assert_eq!(doorward(&["nonsense"]).status.code(), Some(3));
    assert_eq!(doorward(&["serve"]).status.code(), Some(3));
    assert!(text(&doorward(&["completion", "bash"]).stdout).contains("doorward"));
    let schema: Value = serde_json::from_slice(&doorward(&["config", "schema"]).stdout).unwrap();
    assert!(schema["properties"]["listeners"].is_object());
    assert_eq!(doorward(&["health", "--address", "127.0.0.1:1"]).status.code(), Some(1));
}

#[test]
fn a_configuration_that_cannot_be_used_is_refused_with_its_place() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("c.yaml");
    fs::write(&file, "version: 1\nlisteners:\n- address: tcp://0.0.0.0:9191\npolicy: {bundles: [{path: p}]}\n").unwrap();
    for command in ["check", "show"] {
        let refused = doorward(&["config", command, "--config", file.to_str().unwrap()]);
        assert_eq!(refused.status.code(), Some(3));
        let said = text(&refused.stderr);
        assert!(said.contains("c.yaml:3: `listeners[0].address`") && said.contains("insecure: true"), "{said}");
    }
    fs::write(&file, "version: 1\nlisteners: [{peer: {trust: certificate}}]\npolicy: {bundles: [{path: p}]}\n").unwrap();
    let shown = doorward(&["config", "show", "--output", "json", "--config", file.to_str().unwrap()]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["listeners"][0]["address"], "unix:///run/doorward/envoy/authz.sock");
    assert_eq!(shown["limits"]["message"], "4MiB");
    assert_eq!(shown["policy"]["bundles"][0]["path"], folder.path().join("p").to_str().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn health_command_asks_a_running_process() {
    let doorward = Doorward::start(&Setup { policy: Some(ALLOW), ..Setup::default() });
    doorward.wait_ready();
    let healthy = self::doorward(&["health", "--address", &doorward.operations.to_string()]);
    assert_eq!(healthy.status.code(), Some(0), "{}", text(&healthy.stderr));
    assert!(text(&healthy.stdout).contains("\"ready\":true"));
    let _ = channel(doorward.socket()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_seen_with_relative_paths_and_in_a_folder_that_was_made_again() {
    let doorward = Doorward::start(&Setup { policy: Some(DENY), relative: true, ..Setup::default() });
    doorward.wait_ready();
    let path = doorward.path("doorward.yaml");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{good}mode: observe\n")).unwrap();
    eventually("observe", || (doorward.readyz()["mode"] == "observe").then_some(()));
    let loaded = |times: f64| {
        eventually("the policy", || (doorward.metric("doorward_policy_reloads_total", &["loaded"]) >= times).then_some(()));
    };
    let file = doorward.path("policy/policy.rego");
    fs::remove_dir_all(doorward.path("policy")).unwrap();
    eventually("the loss", || doorward.readyz()["policy"]["last_error"].is_object().then_some(()));
    fs::create_dir(doorward.path("policy")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    fs::write(&file, ALLOW).unwrap();
    loaded(2.0);
    fs::write(&file, DENY).unwrap();
    loaded(3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_a_policy_come_with_the_policy() {
    let doorward = Doorward::start(&Setup { policy: Some(DENY), ..Setup::default() });
    doorward.wait_ready();
    let path = doorward.path("doorward.yaml");
    let good = fs::read_to_string(&path).unwrap();
    let new = good.replace("envoy/authz/allow", "envoy/authz/other\n  compat: opa-envoy");
    fs::write(doorward.path("policy/policy.rego"), "package envoy.authz\nallow if\n").unwrap();
    eventually("the refusal", || doorward.readyz()["policy"]["last_error"].is_object().then_some(()));
    fs::write(&path, format!("{new}answer: {{decision_id_on_allow: true}}\n")).unwrap();
    eventually("the configuration", || doorward.log().contains("brought a new configuration into force").then_some(()));
    let answer = Answer::read(doorward.check(Check::http("GET", "/a%2Fb").0).await.unwrap());
    let record = doorward.record(answer.metadata["decision_id"].as_str().unwrap());
    assert_eq!(record["body"]["reason"], "ambiguous_path", "the old policy was not written for compat: {record}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_connections_to_operations_leaves_envoy_its_own() {
    let doorward = Doorward::start(&Setup { policy: Some(ALLOW), ..Setup::default() });
    doorward.wait_ready();
    // Those beyond the first hundred wait in the kernel; nobody here sends a byte.
    let mut flood: Vec<_> = (0..120).map(|_| std::net::TcpStream::connect(doorward.operations).unwrap()).collect();
    assert_eq!(Answer::read(doorward.check(Check::http("GET", "/").0).await.unwrap()).code, 0);
    eventually("the first to be taken", || {
        let open = fs::read_dir(format!("/proc/{}/fd", doorward.id())).unwrap().count();
        assert!(open < 120, "{open} descriptors");
        (open > 64).then_some(())
    });
    flood.truncate(64);
    let first = flood.first_mut().unwrap();
    first.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let mut byte = [0];
    assert_eq!(std::io::Read::read(first, &mut byte).unwrap_or(0), 0, "a silent visitor is sent away");
    assert_eq!(doorward.get("/readyz").0, 200);
}

#[test]
fn a_configuration_of_opa_is_translated_and_what_is_left_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (opa, ours) = (folder.path().join("opa.yaml"), folder.path().join("doorward.yaml"));
    let whole = "services: {a: {url: 'https://a.example'}}\nbundles: {main: {}}\nplugins: {envoy_ext_authz_grpc: {}}\n";
    for (config, code, told) in [
        (whole.to_owned(), 0, "note: `plugins.envoy_ext_authz_grpc.addr`"),
        (format!("{whole}discovery: {{resource: /d}}\n"), 1, "no counterpart: `discovery`: "),
        ("a: [".to_owned(), 3, "neither YAML nor JSON"),
    ] {
        fs::write(&opa, config).unwrap();
        let output = doorward(&["config", "from-opa", opa.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(code), "{}", text_of(&output));
        assert!(text(&output.stderr).contains(told), "{}", text_of(&output));
        if code < 3 {
            fs::write(&ours, &output.stdout).unwrap();
            let checked = doorward(&["config", "check", "--config", ours.to_str().unwrap()]);
            assert!(checked.status.success(), "{}", text_of(&checked));
        }
    }
    fs::write(&opa, whole).unwrap();
    let output = doorward(&["config", "from-opa", "--output", "json", opa.to_str().unwrap()]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found["config"].as_str().unwrap().contains("compat: opa-envoy"));
    assert_eq!(found["findings"][0]["kind"], "note");
}

fn text_of(output: &Output) -> String {
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}
