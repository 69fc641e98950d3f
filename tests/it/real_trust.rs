//! Who is trusted, and who we are: bundles from files and from the Workload API, withdrawn and rotated while calls go
//! through a real Envoy; our own SVID; a real authority.

use std::{
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http_body_util::Full;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    ca::{Ca, Leaf, uri},
    check::{Answer, Check},
    client::{Client, Http, Session, request},
    doorward::{DOMAIN, Doorward, Setup},
    envoy::{Envoy, Options},
    eventually,
    openbao::OpenBao,
    peer, upstream,
    workload_api::WorkloadApi,
};

const READER: &str = "spiffe://example.org/ns/shop/sa/reader";
const SELF: &str = "spiffe://example.org/ns/shop/sa/self";

/// Whoever has proved who they are may do everything.
const POLICY: &str = "package envoy.authz\ndefault allow := false\nallow if input.peer.spiffe_id\n";
/// Shows the input to the caller.
const MIRROR: &str = "package envoy.authz\nallow := {\"allowed\": true, \"dynamic_metadata\": {\"input\": {\"self\": input.self, \"peer\": input.peer}}}\n";
/// Envoy passes on the chain that it took.
const CHAIN: &str =
    "          forward_client_cert_details: SANITIZE_SET\n          set_current_client_cert_details: {chain: true, uri: true}\n";

fn api() -> (TempDir, WorkloadApi) {
    let folder = TempDir::new().unwrap();
    let api = WorkloadApi::start(&folder.path().join("api.sock"));
    (folder, api)
}

/// `trust` with the test domain from the Workload API, and more lines.
fn trust(api: &WorkloadApi, lines: &str) -> String {
    format!("trust:\n  {}\n  domains: {{{DOMAIN}: {{workload_api: true}}}}\n{lines}", api.line())
}

async fn envoy(doorward: &Doorward, options: &Options<'_>) -> Option<Envoy> {
    Envoy::start(doorward, upstream::http().await, upstream::echo().await, options)
}

/// Calls over an open connection until the answer has this status; returns how long that took and the last answer.
async fn until(session: &mut Session, status: u16) -> (Duration, crate::harness::client::Answer) {
    let began = Instant::now();
    loop {
        let answer = session.get("/").await;
        if answer.status == status {
            return (began.elapsed(), answer);
        }
        assert!(began.elapsed() < crate::harness::PATIENCE, "still {}: {}", answer.status, answer.text());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn reason(doorward: &Doorward, answer: &crate::harness::client::Answer) -> String {
    doorward.record(answer.decision())["body"]["reason"].as_str().unwrap().to_owned()
}

#[test]
fn an_independent_client_sees_what_the_double_says() {
    use sha2_of as digest;
    let Some(_) = peer("the SPIFFE client of PyPI", "spiffe/__init__.py") else { return };
    let (ca, other) = (Ca::new(DOMAIN), Ca::new("other.org"));
    let middle = ca.intermediate(DOMAIN);
    let mut leaf = middle.leaf(|params| {
        params.subject_alt_names = vec![uri(SELF)];
        params.is_ca = rcgen::IsCa::ExplicitNoCa;
    });
    leaf.certificate.push_str(&middle.pem);
    let (_folder, api) = api();
    api.say(|said| {
        said.roots(DOMAIN, &[&ca]);
        said.roots("other.org", &[&other]);
        said.jwt_key(DOMAIN, "k1");
        said.svid(SELF, &leaf);
    });
    let python = Command::new("bash").args(["tests/peers.sh", "path", "python"]).output().unwrap();
    let output = Command::new(String::from_utf8_lossy(&python.stdout).trim())
        .arg("tests/it/harness/workload_api.py")
        .arg(format!("unix://{}", api.socket.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    let root = |ca: &Ca| digest(&CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap());
    let chain: Vec<_> = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes()).map(|der| digest(&der.unwrap())).collect();
    let bundles = json!({DOMAIN: [root(&ca)], "other.org": [root(&other)]});
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
    let expected = json!({
        "spiffe_id": SELF, "chain": chain, "key": digest(key.secret_der()),
        "context": bundles, "bundles": bundles, "jwt": {DOMAIN: ["k1"]},
    });
    assert_eq!(seen, expected);
}

fn sha2_of(bytes: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_taken_out_of_a_file_refuses_its_callers_within_a_second() {
    let doorward = Doorward::start(&Setup { policy: Some(POLICY), ..Setup::default() });
    doorward.wait_ready();
    let Some(envoy) = envoy(&doorward, &Options::default()).await else { return };
    let mut session = envoy.client(&doorward, Some(&doorward.ca.svid(READER)), Http::Two).session().await;
    assert_eq!(session.get("/").await.status, 200);
    let other = Ca::new(DOMAIN);
    doorward.replace("bundle.pem", &other.pem);
    let (took, refused) = until(&mut session, 403).await;
    assert_eq!(reason(&doorward, &refused), "untrusted_chain");
    eprintln!("a root taken out of a file: refused on a live connection after {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    doorward.replace("bundle.pem", &format!("{}{}", other.pem, doorward.ca.pem));
    let (took, _) = until(&mut session, 200).await;
    eprintln!("and put back: allowed after {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workload_api_gives_and_takes_on_live_connections() {
    let (_folder, mut api) = api();
    let top = trust(&api, "  max_stale: 2s\n");
    let doorward = Doorward::start(&Setup { policy: Some(POLICY), top: &top, ..Setup::default() });
    eventually("the policy", || (doorward.readyz()["obstacle"] == "no_trust").then_some(()));
    assert_eq!(doorward.readyz()["trust"]["workload_api"]["x509_bundles"]["state"], "waiting");
    let early = Answer::read(
        doorward.check(Check::http("GET", "/").certificate(&doorward.ca.svid(READER).url_encoded()).0).await.unwrap(),
    );
    assert_eq!(early.status, Some(403));
    let first = eventually("its record", || doorward.decisions().pop());
    assert_eq!(first["body"]["reason"], "trust_unavailable");

    api.say(|said| said.roots(DOMAIN, &[&doorward.ca]));
    doorward.wait_ready();
    let Some(envoy) = envoy(&doorward, &Options::default()).await else { return };
    let mut session = envoy.client(&doorward, Some(&doorward.ca.svid(READER)), Http::Two).session().await;
    assert_eq!(session.get("/").await.status, 200);

    // Each way to take it away, each with its own reason, and the way back.
    let other = Ca::new("other.org");
    type Say<'a> = Box<dyn Fn(&mut crate::harness::workload_api::Said) + 'a>;
    let ways: [(&str, Say<'_>); 3] = [
        ("untrusted_chain", Box::new(|said| said.roots(DOMAIN, &[&other]))),
        (
            "trust_unavailable",
            Box::new(|said| {
                said.bundles.clear();
                said.roots("other.org", &[&other]);
            }),
        ),
        ("trust_unavailable", Box::new(|said| said.denied = true)),
    ];
    for (expected, take) in ways {
        api.say(&take);
        let (took, refused) = until(&mut session, 403).await;
        eprintln!("withdrawn by the Workload API ({expected}): refused on a live connection after {took:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_eq!(reason(&doorward, &refused), expected);
        api.say(|said| {
            said.denied = false;
            said.roots(DOMAIN, &[&doorward.ca]);
        });
        until(&mut session, 200).await;
    }

    // Lost: the last bundle counts for `max_stale`, no longer, and everybody can see it.
    api.stop();
    let state = || doorward.readyz()["trust"]["workload_api"]["x509_bundles"]["state"].clone();
    eventually("the outage to be seen", || (state() == "outage").then_some(()));
    assert_eq!(session.get("/").await.status, 200, "the last bundle counts");
    assert_eq!(doorward.get("/readyz").0, 200);
    let (took, refused) = until(&mut session, 403).await;
    assert_eq!(reason(&doorward, &refused), "trust_stale");
    eprintln!("lost: refused after {took:?} with `max_stale: 2s`");
    assert_eq!((state(), doorward.readyz()["obstacle"].clone()), (json!("stale"), json!("no_trust")));
    assert_eq!(doorward.metric("doorward_trust_state", &["x509_bundles", "\"stale\""]), 1.0);
    assert!(doorward.metric("doorward_trust_age_seconds", &["x509_bundles"]) >= 2.0);
    api.start_again();
    until(&mut session, 200).await;
    doorward.wait_ready();
    eventually("the age to be told", || (doorward.metric("doorward_trust_age_seconds", &["x509_bundles"]) == 0.0).then_some(()));
    assert_eq!(doorward.metric("doorward_trust_state", &["x509_bundles", "\"current\""]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn jwt_keys_come_from_the_workload_api_and_from_spiffe_bundles() {
    let (_folder, api) = api();
    let ca = Ca::new("file.org");
    let x5c =
        base64::Engine::encode(&base64::prelude::BASE64_STANDARD, CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap());
    let bundle = |sequence: u64| {
        json!({"spiffe_sequence": sequence, "keys": [
            {"use": "x509-svid", "kty": "EC", "x5c": [x5c]},
            {"use": "jwt-svid", "kty": "EC", "kid": "a", "crv": "P-256", "x": "", "y": ""},
            {"use": "jwt-svid", "kty": "EC", "kid": "b", "crv": "P-256", "x": "", "y": ""},
        ]})
        .to_string()
    };
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("bundle.json");
    std::fs::write(&file, bundle(7)).unwrap();
    let domains = format!("{{{DOMAIN}: {{workload_api: true, backdate: 10s}}, file.org: {{bundle: {}}}}}", file.display());
    let top = format!("trust: {{{}, domains: {domains}}}\n", api.line());
    api.say(|said| {
        said.roots(DOMAIN, &[&ca]);
        said.jwt_key(DOMAIN, "k1");
    });
    let doorward = Doorward::start(&Setup { policy: Some(POLICY), top: &top, ..Setup::default() });
    doorward.wait_ready();
    let domains = || doorward.readyz()["trust"]["domains"].clone();
    let expected = json!({DOMAIN: {"roots": 1, "jwt_keys": 1}, "file.org": {"roots": 1, "jwt_keys": 2}});
    eventually("the JWT keys", || (domains() == expected).then_some(()));
    let leaf = ca.svid("spiffe://file.org/a");
    let answer = Answer::read(doorward.check(Check::http("GET", "/").certificate(&leaf.url_encoded()).0).await.unwrap());
    assert_eq!(answer.code, 0);
    // Never back, and the Workload API is heard all the same.
    std::fs::write(&file, bundle(6)).unwrap();
    let refused = eventually("the refusal", || doorward.readyz()["trust"]["refused"].as_str().map(str::to_owned));
    assert!(refused.contains("`spiffe_sequence` 6, and 7 was in force"), "{refused}");
    api.say(|said| said.jwt.clear());
    api.say(|said| said.jwt_key("other.org", "k2"));
    let expected = json!({DOMAIN: {"roots": 1, "jwt_keys": 0}, "file.org": {"roots": 1, "jwt_keys": 2}});
    eventually("the JWT keys to go", || (domains() == expected).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_way_out_the_peer_is_our_own_workload() {
    let (_folder, api) = api();
    let top = trust(&api, "  self: {workload_api: true}\n");
    let doorward =
        Doorward::start(&Setup { policy: Some(MIRROR), listener: "  placement: egress\n", top: &top, ..Setup::default() });
    api.say(|said| said.roots(DOMAIN, &[&doorward.ca]));
    eventually("our SVID to be missed", || {
        let readyz = doorward.readyz();
        (readyz["obstacle"] == "no_trust" && readyz["trust"]["workload_api"]["x509_bundles"]["state"] == "current").then_some(())
    });
    let explicit = |id: &str| {
        doorward.ca.leaf(|params| {
            params.subject_alt_names = vec![uri(id)];
            params.is_ca = rcgen::IsCa::ExplicitNoCa;
        })
    };
    // A certificate in the request is somebody else's, and gains nothing.
    let call = || Check::http("GET", "/").certificate(&doorward.ca.svid(READER).url_encoded()).principal(READER).0;
    let early = Answer::read(doorward.check(call()).await.unwrap());
    assert_eq!(early.status, Some(403));
    assert_eq!(eventually("its record", || doorward.decisions().pop())["body"]["reason"], "own_svid_unavailable");

    for id in [SELF, "spiffe://example.org/renamed"] {
        api.say(|said| said.svid(id, &explicit(id)));
        eventually("our SVID", || (doorward.readyz()["trust"]["self"] == id).then_some(()));
        doorward.wait_ready();
        let answer = Answer::read(doorward.check(call()).await.unwrap());
        assert_eq!(answer.code, 0, "{answer:?}");
        let (own, peer) = (&answer.input()["self"], &answer.input()["peer"]);
        assert_eq!((&own["spiffe_id"], &own["placement"]), (&json!(id), &json!("egress")));
        assert_eq!((&peer["spiffe_id"], &peer["evidence"]), (&json!(id), &json!("self")));
        assert!(peer["x509"]["not_after"].is_number(), "{peer}");
    }
    let record = eventually("the record", || doorward.decisions().pop().filter(|record| record["body"]["decision"] == "allow"));
    assert_eq!(record["body"]["peer"]["evidence"], "self");
    assert!(doorward.metric("doorward_peers_total", &["\"self\""]) >= 2.0);
    assert!(doorward.metric("doorward_peers_total", &["\"none\""]) >= 1.0);
    api.say(|said| said.denied = true);
    eventually("our SVID to be withdrawn", || doorward.readyz()["trust"]["self"].is_null().then_some(()));
    assert_eq!(Answer::read(doorward.check(call()).await.unwrap()).status, Some(403));
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_show_our_own_svid_and_rotate_it_under_open_connections() {
    let (_folder, api) = api();
    let listener =
        format!("- address: tcp://127.0.0.1:0\n  tls: workload_api\n  callers: {{spiffe_ids: [\"spiffe://{DOMAIN}/envoy\"]}}\n");
    let top = trust(&api, "  self: {workload_api: true}\n");
    let doorward = Doorward::start(&Setup { policy: Some(POLICY), listener: &listener, top: &top, ..Setup::default() });
    let own = || {
        doorward.ca.leaf(|params| {
            params.subject_alt_names = vec![uri(SELF), rcgen::SanType::DnsName("localhost".try_into().unwrap())];
            params.is_ca = rcgen::IsCa::ExplicitNoCa;
        })
    };
    let first = own();
    api.say(|said| {
        said.roots(DOMAIN, &[&doorward.ca]);
        said.svid(SELF, &first);
    });
    doorward.wait_ready();
    let log = doorward.log();
    let port: u16 = log.split("tcp://127.0.0.1:").nth(1).and_then(|rest| rest.split('"').next()?.parse().ok()).unwrap();
    let envoy = doorward.ca.svid(&format!("spiffe://{DOMAIN}/envoy"));
    let client = Client::new(([127, 0, 0, 1], port).into(), &doorward.ca, Some(&envoy), Http::Two);
    let shown = |stream: &tokio_rustls::client::TlsStream<tokio::net::TcpStream>| {
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let der = |leaf: &Leaf| CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
    assert_eq!(shown(&client.connect().await), der(&first));
    let mut open = client.session().await;
    assert_eq!(open.get("/unknown").await.header("grpc-status"), Some("12"));
    for _ in 0..3 {
        let next = own();
        api.say(|said| said.svid(SELF, &next));
        let began = Instant::now();
        while shown(&client.connect().await) != der(&next) {
            assert!(began.elapsed() < crate::harness::PATIENCE, "the old certificate is still shown");
        }
        assert_eq!(open.get("/unknown").await.header("grpc-status"), Some("12"), "the open connection goes on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_of_a_certificate_has_its_reason_in_the_record() {
    let doorward =
        Doorward::start(&Setup { policy: Some(POLICY), listener: "  peer: {xfcc: last_element}\n", ..Setup::default() });
    doorward.wait_ready();
    let ca = &doorward.ca;
    let named = |id: &str| vec![uri(id)];
    let at = |days: i64| time::OffsetDateTime::now_utc() + time::Duration::days(days);
    let good = ca.svid(READER);
    let hash = |leaf: &Leaf| sha2_of(&CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap());
    let leaf = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        ca.leaf(|params| {
            params.subject_alt_names = named(READER);
            change(params);
        })
    };
    let constrained = ca.leaf(|params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.subject_alt_names = named(READER);
    });
    let table: Vec<(String, Option<String>, Option<&str>, &str)> = vec![
        ("rubbish".to_owned(), None, None, "certificate_malformed"),
        (leaf(&|p| p.subject_alt_names.push(uri(SELF))).url_encoded(), None, None, "multiple_uri_sans"),
        (ca.svid("spiffe://example.org").url_encoded(), None, None, "invalid_spiffe_id"),
        (constrained.url_encoded(), None, None, "ca_certificate"),
        (leaf(&|p| p.key_usages.clear()).url_encoded(), None, None, "key_usage"),
        (
            leaf(&|p| p.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth]).url_encoded(),
            None,
            None,
            "extended_key_usage",
        ),
        (ca.svid("spiffe://elsewhere.org/a").url_encoded(), None, None, "untrusted_domain"),
        (Ca::new(DOMAIN).svid(READER).url_encoded(), None, None, "untrusted_chain"),
        (leaf(&|p| p.not_before = at(1).min(p.not_after)).url_encoded(), None, None, "svid_not_yet_valid"),
        (leaf(&|p| (p.not_before, p.not_after) = (at(-2), at(-1))).url_encoded(), None, None, "svid_expired"),
        (good.url_encoded(), None, Some(SELF), "identity_mismatch"),
        (ca.intermediate(DOMAIN).svid(READER).url_encoded(), Some("Hash=ab;x".to_owned()), None, "xfcc_malformed"),
        (
            ca.intermediate(DOMAIN).svid(READER).url_encoded(),
            Some(format!("Hash={};URI={READER}", hash(&good))),
            None,
            "xfcc_mismatch",
        ),
    ];
    let count = table.len();
    for (certificate, xfcc, principal, expected) in table {
        let mut check = Check::http("GET", "/").certificate(&certificate).principal(principal.unwrap_or_default());
        if let Some(xfcc) = xfcc {
            check = check.header("x-forwarded-client-cert", &xfcc);
        }
        let before = doorward.decisions().len();
        let answer = Answer::read(doorward.check(check.0).await.unwrap());
        assert_eq!(answer.status, Some(403), "{expected}");
        let record = eventually("the record", || doorward.decisions().get(before).cloned());
        assert_eq!((&record["body"]["reason"], &record["body"]["decision"]), (&json!(expected), &json!("deny")));
        assert!(record["body"]["peer"].is_null(), "{expected}: nobody is believed to be behind it");
        assert_eq!(record["body"]["input"]["peer_error"], expected);
        assert_eq!(doorward.metric("doorward_decisions_total", &[&format!("\"{expected}\"")]), 1.0);
    }
    assert_eq!(doorward.metric("doorward_peers_total", &["\"none\""]), count as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn svids_of_openbao_are_verified_with_the_chain_that_envoy_passes_on() {
    let Some(bao) = OpenBao::start() else { return };
    let doorward =
        Doorward::start(&Setup { policy: Some(POLICY), listener: "  peer: {xfcc: last_element}\n", ..Setup::default() });
    doorward.wait_ready();
    doorward.replace("bundle.pem", &format!("{}{}\n", doorward.ca.pem, bao.root.trim()));
    eventually("the root of OpenBao", || (doorward.readyz()["trust"]["domains"][DOMAIN]["roots"] == 2).then_some(()));
    let Some(envoy) = envoy(&doorward, &Options { manager: CHAIN, ..Options::default() }).await else { return };
    let leaf = bao.svid(READER);
    for http in [Http::One, Http::Two] {
        let answer = envoy.client(&doorward, Some(&leaf), http).get("/").await;
        assert_eq!(answer.status, 200, "{http:?}: {answer:?}");
    }
    let record = eventually("the record", || doorward.decisions().pop());
    assert_eq!(record["body"]["peer"]["spiffe_id"], READER);
    assert_eq!(record["body"]["peer"]["evidence"], "sidecar");

    // Without its intermediate another one cannot be verified, and a header of the client's own does not help: the one
    // that counts is Envoy's.
    let leaf = bao.svid(READER);
    let alone = Leaf {
        certificate: leaf.certificate.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap().to_owned(),
        key: leaf.key.clone(),
    };
    let hash = sha2_of(&CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap());
    let escaped = Leaf { certificate: leaf.certificate.clone(), key: String::new() }.url_encoded();
    for forged in
        [String::new(), format!("Hash={hash};Chain=\"{escaped}\";URI={READER}"), format!("Hash={hash};Chain=\"{escaped}\",")]
    {
        let mut call = request("GET", "/");
        if !forged.is_empty() {
            call = call.header("x-forwarded-client-cert", &forged);
        }
        let refused = envoy.client(&doorward, Some(&alone), Http::Two).send(call.body(Full::default()).unwrap()).await;
        assert_eq!((refused.status, reason(&doorward, &refused).as_str()), (403, "untrusted_chain"), "{forged}");
    }
    // With it, it can; and once the root is taken out, the chain is worth nothing.
    doorward.replace("bundle.pem", &doorward.ca.pem);
    let mut session = envoy.client(&doorward, Some(&leaf), Http::Two).session().await;
    let (took, refused) = until(&mut session, 403).await;
    assert_eq!(reason(&doorward, &refused), "untrusted_chain");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// Who calls at the moment, and in which generation.
struct Callers {
    client: Mutex<(usize, Client)>,
    stop: AtomicBool,
    calls: AtomicUsize,
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
async fn svids_and_authorities_rotate_under_load_and_no_call_fails() {
    let doorward =
        Doorward::start(&Setup { policy: Some(POLICY), listener: "  peer: {xfcc: last_element}\n", ..Setup::default() });
    doorward.wait_ready();
    let Some(envoy) = envoy(&doorward, &Options { manager: CHAIN, sds: true, ..Options::default() }).await else { return };
    let server = |ca: &Ca| {
        ca.leaf(|params| params.subject_alt_names = vec![uri(SELF), rcgen::SanType::DnsName("localhost".try_into().unwrap())])
    };
    let svid = |ca: &Ca| {
        let middle = ca.intermediate(DOMAIN);
        let mut leaf = middle.svid(READER);
        leaf.certificate.push_str(&middle.pem);
        leaf
    };
    let client = |generation: usize, authorities: &[&Ca], leaf: &Leaf| {
        (generation, Client::trusting(envoy.http, authorities, Some(leaf), Http::Two))
    };
    let callers = Arc::new(Callers {
        client: Mutex::new(client(0, &[&doorward.ca], &svid(&doorward.ca))),
        stop: AtomicBool::new(false),
        calls: AtomicUsize::new(0),
    });
    // Each task says which generation its last call was of; every call must be allowed. One keeps its connection.
    let seen: Arc<[AtomicUsize; 3]> = Arc::default();
    let tasks: Vec<_> = (0..3)
        .map(|task| {
            let (callers, seen) = (Arc::clone(&callers), Arc::clone(&seen));
            tokio::spawn(async move {
                let mut open: Option<(usize, Session)> = None;
                while !callers.stop.load(Ordering::Relaxed) {
                    let (generation, client) = callers.client.lock().unwrap().clone();
                    let status = if task == 0 {
                        if open.as_ref().is_none_or(|(of, _)| *of != generation) {
                            open = Some((generation, client.session().await));
                        }
                        open.as_mut().unwrap().1.get("/").await.status
                    } else {
                        client.get("/").await.status
                    };
                    assert_eq!(status, 200, "generation {generation}");
                    callers.calls.fetch_add(1, Ordering::Relaxed);
                    seen[task].store(generation, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let all_use = |generation: usize| {
        eventually("every caller to use its new SVID", || {
            let done = tasks.iter().any(tokio::task::JoinHandle::is_finished);
            assert!(!done, "a call failed");
            seen.iter().all(|seen| seen.load(Ordering::Relaxed) == generation).then_some(())
        });
    };
    let trusted = |roots: &[&Ca]| {
        let pem: String = roots.iter().map(|root| root.pem.as_str()).collect();
        let before = doorward.readyz()["trust"]["revision"].clone();
        doorward.replace("bundle.pem", &pem);
        eventually("the bundle", || (doorward.readyz()["trust"]["revision"] != before).then_some(()));
        envoy.rotate_roots(&pem);
    };
    let authorities: Vec<Ca> = (0..4).map(|_| Ca::new(DOMAIN)).collect();
    let mut current = &doorward.ca;
    let mut generation = 0;
    for next in &authorities {
        // The new authority is trusted before anybody shows what it issued, and the old one until nobody does.
        trusted(&[current, next]);
        for leaf in [svid(next), svid(next)] {
            generation += 1;
            *callers.client.lock().unwrap() = client(generation, &[current, next], &leaf);
            all_use(generation);
        }
        envoy.rotate_certificate(&server(next));
        generation += 1;
        *callers.client.lock().unwrap() = client(generation, &[next], &svid(next));
        all_use(generation);
        trusted(&[next]);
        current = next;
    }
    callers.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    let calls = callers.calls.load(Ordering::Relaxed);
    eprintln!("4 authorities, {generation} SVIDs and 4 server certificates rotated under load: {calls} calls, 0 failed");
    assert!(calls > 50);
}
