//! What `doorward gen envoy` prints, in a real Envoy: it is accepted, calls pass and are refused as promised, and what
//! the running Envoy says of itself has no weakness.

use std::{fs, process::Command};

use bytes::Bytes;
use http_body_util::Full;

use crate::harness::{
    client::{Http, request},
    doorward::{DOMAIN, Doorward, Setup},
    envoy::Envoy,
    peer, upstream,
};

const READER: &str = "spiffe://example.org/ns/shop/sa/reader";

const POLICY: &str = r#"package envoy.authz

default allow := false

allow := {"allowed": true, "headers": {"x-user": "reader"}} if {
    input.peer.spiffe_id == "spiffe://example.org/ns/shop/sa/reader"
    input.parsed_path[0] == "read"
}

allow := {"allowed": true, "lease_s": 0.7} if input.parsed_path[0] == "stream"
"#;

fn doorward(peer: &str) -> Doorward {
    let listener = format!("  max_body: 64KiB\n{peer}");
    let doorward = Doorward::start(&Setup { policy: Some(POLICY), listener: &listener, ..Setup::default() });
    doorward.wait_ready();
    doorward
}

/// Above the second that the tests' doorward may take.
const TIMEOUT: [&str; 2] = ["--timeout", "1500ms"];

#[test]
fn envoy_accepts_every_form_of_what_is_printed() {
    let Some(envoy) = peer("Envoy", "envoy/_bin/envoy") else { return };
    let doorward = doorward("");
    let (certificate, key) = doorward.ca.svid(READER).write(doorward.folder.path(), "server");
    let folder = doorward.folder.path().display().to_string();
    for (name, secret) in [
        (
            "certificate",
            format!(
                "name: svid\n  tls_certificate: {{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}",
                certificate.display(),
                key.display()
            ),
        ),
        ("trust", format!("name: trust\n  validation_context: {{trusted_ca: {{filename: {folder}/bundle.pem}}}}")),
    ] {
        let head = "resources:\n- \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  ";
        fs::write(doorward.path(&format!("{name}.yaml")), format!("{head}{secret}\n")).unwrap();
    }
    let bundle = doorward.path("bundle.pem").display().to_string();
    let files = ["--certificate", certificate.to_str().unwrap(), "--key", key.to_str().unwrap(), "--ca", &bundle];
    let mut accepted = 0;
    for placement in
        [&["inbound"][..], &["inbound", "--xfcc"], &["egress"], &["gateway"], &["gateway", "--xfcc", "--upstream-tls"]]
    {
        for certificates in [&["--sds-path", &folder][..], &["--sds-cluster", "spire"], &files] {
            for more in [&[][..], &["--trust-domain", DOMAIN, "--admin", "9901", "--probe", "9902", "--streams", "/stream/"]] {
                let first = ["gen", "envoy", "--upstream", "localhost:8080", "--placement"];
                let args = [&first[..], placement, certificates, more].concat();
                let printed = Command::new(env!("CARGO_BIN_EXE_doorward")).args(&args).output().unwrap();
                let file = doorward.path("printed.yaml");
                fs::write(&file, &printed.stdout).unwrap();
                let judged =
                    Command::new(&envoy).args(["--mode", "validate", "-l", "warning", "-c"]).arg(&file).output().unwrap();
                assert!(judged.status.success(), "{args:?}: {}", String::from_utf8_lossy(&judged.stderr));
                // Not even a word about a field that is deprecated.
                let said = String::from_utf8_lossy(&judged.stderr);
                assert!(!said.contains("warning") && !said.contains("deprecated"), "{args:?}: {said}");
                let checked =
                    Command::new(env!("CARGO_BIN_EXE_doorward")).args(["check", "--strict", "--envoy"]).arg(&file).output();
                assert!(checked.unwrap().status.success(), "{args:?}");
                accepted += 1;
            }
        }
    }
    assert_eq!(accepted, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_a_certificate_passes_and_one_without_is_refused() {
    let doorward = doorward("");
    let flags = [&TIMEOUT[..], &["--trust-domain", DOMAIN]].concat();
    let Some(envoy) = Envoy::printed(&doorward, upstream::http().await, &flags) else { return };
    let stranger = crate::harness::ca::Ca::new(DOMAIN);
    for (http, decided) in [(Http::One, 2), (Http::Two, 4)] {
        let reader = envoy.client(&doorward, Some(&doorward.ca.svid(READER)), http);
        let call = request("GET", "/read/1").header("x-user", "root").header("x-envoy-upstream-rq-timeout-ms", "1");
        let passed = reader.send(call.body(Full::default()).unwrap()).await;
        assert_eq!(passed.status, 200, "{passed:?}");
        let upstream_saw = passed.text().to_ascii_lowercase();
        assert!(upstream_saw.contains("x-user: reader") && !upstream_saw.contains("root"), "{upstream_saw}");
        assert!(!upstream_saw.contains("x-envoy-upstream-rq-timeout-ms"), "a client is internal to nobody: {upstream_saw}");
        assert_eq!(reader.get("/other").await.status, 403);
        assert_eq!(reader.get("/read%2fother").await.status, 400, "Envoy itself refuses two spellings");
        for leaf in [None, Some(stranger.svid(READER)), Some(doorward.ca.svid("spiffe://elsewhere.org/reader"))] {
            let refused = envoy.client(&doorward, leaf.as_ref(), http);
            let call = request("GET", "/read/1").body(Full::default()).unwrap();
            assert!(refused.try_send(call).await.is_err(), "ends in the handshake");
        }
        assert_eq!(envoy.stat("cluster.doorward.upstream_rq_total"), decided, "nobody was asked about them");
    }
    assert_eq!(envoy.stat("ssl.fail_verify_no_cert"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_route_is_policys_to_open_and_a_lease_ends_a_stream() {
    let doorward = doorward("");
    let flags = [&TIMEOUT[..], &["--optional-certificate", "--streams", "/stream"]].concat();
    let Some(envoy) = Envoy::printed(&doorward, upstream::http().await, &flags) else { return };
    let nobody = envoy.client(&doorward, None, Http::One);
    assert_eq!(nobody.get("/read/1").await.status, 403);
    // The upstream would send for ever, and the client asks for no limit.
    let call = request("GET", "/stream/1").header("x-envoy-upstream-stream-duration-ms", "0");
    let ended = nobody.try_send(call.body(Full::<Bytes>::default()).unwrap()).await;
    assert!(ended.is_err(), "cut, not finished: {ended:?}");
    // Doorward holds it and counts from the decision, so that it is a moment before Envoy.
    let by_doorward = doorward.metric("doorward_streams_ended_total", &["expired"]) as u64;
    assert_eq!(envoy.stat("upstream_rq_max_duration_reached") + by_doorward, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intermediate_is_verified_through_xfcc_and_the_running_envoy_has_no_weakness() {
    let doorward = doorward("  peer: {xfcc: last_element}\n");
    let flags = [&TIMEOUT[..], &["--xfcc"]].concat();
    let Some(envoy) = Envoy::printed(&doorward, upstream::http().await, &flags) else { return };
    let intermediate = doorward.ca.intermediate(DOMAIN);
    let mut leaf = intermediate.svid(READER);
    leaf.certificate.push_str(&intermediate.pem);
    let passed = envoy.client(&doorward, Some(&leaf), Http::Two).get("/read/1").await;
    assert_eq!(passed.status, 200, "{passed:?}");
    let dump = doorward.path("dump.json");
    fs::write(&dump, envoy.admin("GET", "/config_dump")).unwrap();
    let check = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
        command.args(["check", "--strict", "--envoy"]).arg(&dump).arg("--config").arg(doorward.path("doorward.yaml"));
        command.args(more).output().unwrap()
    };
    let checked = check(&[]);
    let said = String::from_utf8_lossy(&checked.stdout);
    assert_eq!(
        (checked.status.code(), said.trim()),
        (Some(0), "nothing is wrong"),
        "{}",
        String::from_utf8_lossy(&checked.stderr)
    );
    // The same dump, weakened where Envoy would have been told so.
    let weak = fs::read_to_string(&dump).unwrap().replace("\"include_peer_certificate\": true", "\"shadow_mode\": true");
    fs::write(&dump, weak).unwrap();
    let checked = check(&["--output", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    let found: Vec<_> = report["findings"].as_array().unwrap().iter().map(|finding| &finding["code"]).collect();
    assert_eq!(found, ["shadow_mode", "peer_certificate_missing"], "{report}");
}
