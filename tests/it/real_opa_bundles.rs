//! Bundles of the real `opa build` and `opa sign` over HTTPS: what is sound comes into force, each tampering is refused
//! while the old policy serves, and the last good one survives a start without network.

use std::{
    collections::VecDeque,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use crate::harness::{
    ca::{Ca, Leaf, uri},
    check::{Answer, Check},
    doorward::{Doorward, Setup},
    eventually, opa,
    workload_api::WorkloadApi,
};

const OWN: &str = "spiffe://bundles.test/doorward";
const SECRET: &str = "a secret of thirty-two bytes ...";

/// What the server answers, and what it was asked.
#[derive(Default)]
struct Shelf {
    bundle: Vec<u8>,
    status: u16,
    requests: VecDeque<String>,
}

/// An HTTPS server with one bundle, which demands a client certificate of its authority.
struct Server {
    address: SocketAddr,
    shelf: Arc<Mutex<Shelf>>,
    folder: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::new("bundles.test");
        fs::write(folder.path().join("ca.pem"), &ca.pem).unwrap();
        let client = ca.leaf(|params| {
            params.subject_alt_names = vec![uri(OWN)];
            params.is_ca = rcgen::IsCa::ExplicitNoCa;
        });
        client.write(folder.path(), "client");
        let leaf = ca.leaf(|params| {
            params.subject_alt_names = vec![rcgen::SanType::IpAddress([127, 0, 0, 1].into())];
        });
        fs::write(folder.path().join("token"), "let-me-in\n").unwrap();
        fs::write(folder.path().join("secret"), SECRET).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shelf = Arc::new(Mutex::new(Shelf { status: 200, ..Shelf::default() }));
        tokio::spawn(serve(listener, acceptor(&ca, &leaf), Arc::clone(&shelf)));
        Self { address, shelf, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn offer(&self, bundle: Vec<u8>) {
        self.shelf.lock().unwrap().bundle = bundle;
    }

    fn answer(&self, status: u16) {
        self.shelf.lock().unwrap().status = status;
    }

    fn requests(&self) -> Vec<String> {
        self.shelf.lock().unwrap().requests.iter().cloned().collect()
    }

    /// The lines of a configuration that fetches from here.
    fn policy(&self) -> String {
        let at = |name: &str| self.path(name).display().to_string();
        format!(
            "  bundles:\n  - name: main\n    url: https://{}/bundle.tar.gz\n    token_file: {}\n    ca: {}\n    \
             tls: {{certificate: {}, key: {}}}\n    forbid_rollback: true\n    poll: {{min: 50ms, max: 100ms}}\n  \
             cache: {}\n  signing: {{keys: {{release: {{algorithm: HS256, key_file: {}}}}}}}\n",
            self.address,
            at("token"),
            at("ca.pem"),
            at("client.pem"),
            at("client.key"),
            at("cache"),
            at("secret"),
        )
    }
}

fn acceptor(ca: &Ca, leaf: &Leaf) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap(),
        )
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// HTTP/1.1, one request a connection. The entity tag is the digest of the bundle.
async fn serve(listener: TcpListener, acceptor: TlsAcceptor, shelf: Arc<Mutex<Shelf>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, shelf) = (acceptor.clone(), Arc::clone(&shelf));
        tokio::spawn(async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut request = Vec::new();
            let mut chunk = [0; 4096];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut chunk).await {
                    Ok(read @ 1..) => request.extend_from_slice(&chunk[..read]),
                    _ => return,
                }
            }
            let request = String::from_utf8_lossy(&request).to_lowercase();
            let answer = {
                let mut shelf = shelf.lock().unwrap();
                shelf.requests.push_back(request.clone());
                let etag = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &shelf.bundle));
                let (status, body) = match shelf.status {
                    200 if request.contains(&format!("if-none-match: \"{etag}\"")) => (304, Vec::new()),
                    200 => (200, shelf.bundle.clone()),
                    other => (other, b"no".to_vec()),
                };
                let head = format!("HTTP/1.1 {status} x\r\nconnection: close\r\netag: \"{etag}\"\r\n");
                let length = if status == 304 { String::new() } else { format!("content-length: {}\r\n", body.len()) };
                [format!("{head}{length}\r\n").into_bytes(), body].concat()
            };
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        });
    }
}

/// A bundle that `opa build` made and signed; `signer` are the arguments that say how.
fn build(opa: &Path, allow: bool, revision: &str, signer: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("b")).unwrap();
    fs::write(at("b/p.rego"), format!("package envoy.authz\n\nallow := data.settings.open == {allow}\n")).unwrap();
    fs::write(at("b/data.json"), "{\"settings\": {\"open\": true, \"rate\": 1.50, \"text\": \"a<b>\\u2028\"}}").unwrap();
    let mut command = Command::new(opa);
    command.current_dir(folder.path()).args(["build", "-b", "b", "-o", "b.tar.gz", "--revision", revision]).args(signer);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read(at("b.tar.gz")).unwrap()
}

/// `bundle` with its files changed.
fn tamper(bundle: &[u8], change: impl FnOnce(&mut Vec<(String, Vec<u8>)>)) -> Vec<u8> {
    use std::io::Read as _;
    let mut files = Vec::new();
    for entry in tar::Archive::new(flate2::read::GzDecoder::new(bundle)).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        files.push((entry.path().unwrap().display().to_string().trim_start_matches('/').to_owned(), bytes));
    }
    change(&mut files);
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

async fn code(doorward: &Doorward) -> i32 {
    Answer::read(doorward.check(Check::http("GET", "/").0).await.unwrap()).code
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_svid_of_the_workload_api_opens_the_server() {
    let Some(opa) = opa() else { return };
    let server = Server::start().await;
    server.offer(build(&opa, true, "1", &[]));
    let api = WorkloadApi::start(&server.path("api.sock"));
    let policy = format!(
        "  bundles: [{{name: main, url: \"https://{}/b.tar.gz\", ca: {}, tls: workload_api, poll: {{min: 50ms, max: 100ms}}}}]\n",
        server.address,
        server.path("ca.pem").display()
    );
    let top = format!("trust: {{{}, self: {{workload_api: true}}}}\n", api.line());
    let setup = Setup { policy_lines: &policy, listener: "  peer: {trust: certificate}\n", top: &top, ..Setup::default() };
    let doorward = Doorward::start(&setup);
    eventually("the wait for our SVID", || doorward.log().contains("no SVID yet").then_some(()));
    assert_eq!(server.requests(), [""; 0], "without a certificate nothing is asked");
    let read = |name: &str| fs::read_to_string(server.path(name)).unwrap();
    api.say(|said| {
        let der = CertificateDer::from_pem_slice(read("ca.pem").as_bytes()).unwrap();
        said.bundles.insert("bundles.test".to_owned(), der.to_vec());
        said.svid(OWN, &Leaf { certificate: read("client.pem"), key: read("client.key") });
    });
    doorward.wait_ready();
    assert_eq!(code(&doorward).await, 0);
    assert_eq!(doorward.readyz()["trust"]["self"], OWN);
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_bundles_load_and_each_tampering_is_refused_while_the_old_one_serves() {
    let Some(opa) = opa() else { return };
    let server = Server::start().await;
    let signer = ["--signing-key", SECRET, "--signing-alg", "HS256", "--verification-key-id", "release"];
    let claims = server.path("claims.json");
    fs::write(&claims, r#"{"keyid": "release", "exp": 1000000000}"#).unwrap();
    let good = build(&opa, true, "2", &signer);
    server.offer(good.clone());
    let policy = server.policy();
    let mut doorward = Doorward::start(&Setup { policy_lines: &policy, ..Setup::default() });
    doorward.wait_ready();
    assert_eq!(code(&doorward).await, 0);
    eventually("a 304", || (doorward.metric("doorward_bundle_fetches_total", &["unchanged"]) >= 1.0).then_some(()));
    let request = server.requests().pop().unwrap();
    assert!(request.contains("authorization: bearer let-me-in") && request.contains("if-none-match"), "{request}");
    let shown = || doorward.readyz()["policy"]["bundles"][0].clone();
    assert_eq!((shown()["revision"].as_str(), shown()["origin"].as_str()), (Some("2"), Some("network")));

    let (file, unsigned) = (claims.to_str().unwrap(), build(&opa, false, "3", &[]));
    let expired = [&signer[..], &["--claims-file", file]].concat();
    let other = ["--signing-key", "another", "--signing-alg", "HS256"];
    for (name, bundle, expected) in [
        (
            "a byte",
            tamper(&good, |files| {
                files.iter_mut().for_each(|(name, bytes)| {
                    if name.ends_with(".rego") {
                        bytes.push(b'\n')
                    }
                })
            }),
            "is not what was signed",
        ),
        ("added", tamper(&good, |files| files.push(("x.rego".to_owned(), b"package x".to_vec()))), "does not cover `x.rego`"),
        ("removed", tamper(&good, |files| files.retain(|(name, _)| !name.ends_with(".rego"))), "is not there"),
        ("another key", build(&opa, false, "3", &other), "policy.signing.keys"),
        ("expired", build(&opa, false, "3", &expired), "expired"),
        ("unsigned", unsigned, "bears no signature"),
        ("rollback", build(&opa, false, "1", &signer), "older than `2`"),
        ("garbage", b"no bundle".to_vec(), "no readable `.tar.gz`"),
    ] {
        server.offer(bundle);
        eventually(name, || shown()["error"].as_str().is_some_and(|error| error.contains(expected)).then_some(()));
        assert_eq!((code(&doorward).await, doorward.get("/readyz").0), (0, 200), "{name}: the old one serves");
        assert!(doorward.log().contains(expected), "{name}: the log says why");
    }
    assert!(doorward.metric("doorward_bundle_fetches_total", &["refused"]) >= 8.0);
    server.answer(500);
    eventually("the 500", || shown()["error"].as_str().is_some_and(|error| error.contains("500")).then_some(()));
    server.answer(200);
    server.offer(build(&opa, false, "3", &signer));
    eventually("the next revision", || (shown()["revision"] == "3").then_some(()));
    assert_eq!(code(&doorward).await, 7);

    server.answer(500);
    doorward.stop();
    doorward.start_again(&Setup { policy_lines: &policy, ..Setup::default() }, 1).wait().unwrap();
    assert_eq!(doorward.readyz()["policy"]["bundles"][0]["origin"], "cache");
    assert_eq!(code(&doorward).await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_neither_network_nor_sound_cache_denies() {
    let server = Server::start().await;
    server.answer(503);
    fs::create_dir(server.path("cache")).unwrap();
    fs::write(server.path("cache/main.bundle"), "{}\nnothing").unwrap();
    let policy = server.policy();
    let doorward = Doorward::start(&Setup { policy_lines: &policy, ..Setup::default() });
    let error = eventually("the refusal", || {
        Some(doorward.readyz()["policy"]["last_error"].to_string()).filter(|text| text.contains("damaged"))
    });
    assert!(error.contains("main.bundle"), "{error}");
    assert_eq!(doorward.get("/readyz").0, 503);
    assert_eq!(code(&doorward).await, 7);
}
