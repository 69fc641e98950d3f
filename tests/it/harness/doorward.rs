//! The real binary, configured for a test, with what it says about itself.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use envoy_types::ext_authz::v3::pb::{CheckRequest, CheckResponse};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::{
    client::Grpc,
    transport::{Channel, Endpoint},
};

use super::{ca::Ca, eventually};

pub const DOMAIN: &str = "example.org";

/// What a test wants different from the usual.
#[derive(Default)]
pub struct Setup<'a> {
    /// The Rego source of `policy.rego`; none starts without a policy folder.
    pub policy: Option<&'a str>,
    /// Further files of the policy folder.
    pub files: &'a [(&'a str, &'a str)],
    /// Lines for the listener, indented by two.
    pub listener: &'a str,
    /// Lines for `policy`, indented by two.
    pub policy_lines: &'a str,
    /// Top-level lines.
    pub top: &'a str,
    /// More arguments of `serve`.
    pub args: &'a [&'a str],
    /// Started in its folder, with a relative path to its configuration.
    pub relative: bool,
    /// Environment of the process.
    pub env: &'a [(&'a str, &'a str)],
}

/// A running doorward.
pub struct Doorward {
    child: Child,
    pub folder: TempDir,
    pub ca: Ca,
    pub operations: SocketAddr,
}

impl Doorward {
    pub fn start(setup: &Setup<'_>) -> Self {
        let folder = TempDir::new().unwrap();
        let ca = Ca::new(DOMAIN);
        fs::write(folder.path().join("bundle.pem"), &ca.pem).unwrap();
        fs::create_dir(folder.path().join("policy")).unwrap();
        if let Some(policy) = setup.policy {
            fs::write(folder.path().join("policy/policy.rego"), policy).unwrap();
        }
        for (name, text) in setup.files {
            fs::write(folder.path().join("policy").join(name), text).unwrap();
        }
        fs::write(folder.path().join("doorward.yaml"), config(folder.path(), setup)).unwrap();
        Self::run(folder, ca, setup)
    }

    /// Starts the binary on a folder that [`Self::start`] has laid out.
    fn run(folder: TempDir, ca: Ca, setup: &Setup<'_>) -> Self {
        let child = spawn(folder.path(), "doorward.log", setup);
        let mut doorward = Self { child, folder, ca, operations: SocketAddr::from(([127, 0, 0, 1], 0)) };
        doorward.operations = doorward.wait_for_operations("doorward.log");
        doorward
    }

    /// Starts a second process on the same folder, waits until it is ready, then stops the first one gently.
    pub fn restart_gracefully(&mut self, setup: &Setup<'_>, generation: usize) -> ExitStatus {
        let args = [setup.args, &["--take-over"]].concat();
        let mut old = self.start_again(&Setup { args: &args, ..*setup }, generation);
        signal(&old, Signal::SIGTERM);
        old.wait().unwrap()
    }

    /// Starts a process on the same folder, waits until it is ready, and hands out the former one.
    pub fn start_again(&mut self, setup: &Setup<'_>, generation: usize) -> Child {
        let log = format!("doorward-{generation}.log");
        let next = spawn(self.folder.path(), &log, setup);
        let old = std::mem::replace(&mut self.child, next);
        self.operations = self.wait_for_operations(&log);
        self.wait_ready();
        old
    }

    fn wait_for_operations(&self, log: &str) -> SocketAddr {
        let path = self.path(log);
        eventually("the operations address in the log", || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let line = text.lines().find(|line| line.contains("serving /livez"))?;
            let line: Value = serde_json::from_str(line).ok()?;
            line["fields"]["address"].as_str()?.parse().ok()
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("authz.sock")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("doorward.log")).unwrap_or_default()
    }

    pub fn wait_ready(&self) {
        eventually(&format!("readiness, log:\n{}", self.log()), || (self.get("/readyz").0 == 200).then_some(()));
    }

    /// Status and body of a GET on the operations listener.
    pub fn get(&self, path: &str) -> (u16, String) {
        use std::io::{Read as _, Write as _};
        let ask = || -> std::io::Result<String> {
            let mut stream = std::net::TcpStream::connect(self.operations)?;
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let Ok(answer) = ask() else { return (0, String::new()) };
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0), body.to_owned())
    }

    pub fn readyz(&self) -> Value {
        serde_json::from_str(&self.get("/readyz").1).unwrap_or_default()
    }

    /// Sum of the samples of a metric whose labels contain every one of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.get("/metrics").1;
        let samples = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// The records written so far.
    pub fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("records.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in record {line}"))).collect()
    }

    pub fn decisions(&self) -> Vec<Value> {
        self.records().into_iter().filter(|record| record["kind"] == "decision").collect()
    }

    /// The record of one decision, once it is written.
    pub fn record(&self, id: &str) -> Value {
        eventually(&format!("the record of decision {id}"), || self.decisions().into_iter().find(|record| record["id"] == id))
    }

    /// Replaces a file of its folder in one step.
    pub fn replace(&self, name: &str, text: &str) {
        let new = self.path(&format!("{name}.new"));
        fs::write(&new, text).unwrap();
        fs::rename(&new, self.path(name)).unwrap();
    }

    /// Replaces the policy and waits until it is in force or refused.
    pub fn replace_policy(&self, source: &str) {
        let before = self.readyz()["policy"].clone();
        let (new, file) = (self.path("policy.new"), self.path("policy/policy.rego"));
        fs::write(&new, source).unwrap();
        fs::rename(&new, &file).unwrap();
        eventually("the policy to be looked at", || (self.readyz()["policy"] != before).then_some(()));
    }

    /// Of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, what: Signal) {
        signal(&self.child, what);
    }

    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// A gRPC channel to the first listener.
    pub async fn channel(&self) -> Channel {
        channel(self.socket()).await
    }

    /// One Check, as Envoy would send it.
    pub async fn check(&self, request: CheckRequest) -> Result<CheckResponse, tonic::Status> {
        check(self.channel().await, request).await
    }
}

impl Drop for Doorward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- doorward's log\n{}", self.log());
        }
    }
}

pub async fn channel(socket: PathBuf) -> Channel {
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://doorward").connect_with_connector(connect).await.unwrap()
}

pub async fn check(channel: Channel, request: CheckRequest) -> Result<CheckResponse, tonic::Status> {
    let mut client = Grpc::new(channel).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX);
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/envoy.service.auth.v3.Authorization/Check");
    let codec = tonic_prost::ProstCodec::default();
    client.unary(tonic::Request::new(request), path, codec).await.map(tonic::Response::into_inner)
}

fn spawn(folder: &Path, log: &str, setup: &Setup<'_>) -> Child {
    let config = if setup.relative { "doorward.yaml".into() } else { folder.join("doorward.yaml") };
    Command::new(env!("CARGO_BIN_EXE_doorward"))
        .current_dir(if setup.relative { folder } else { Path::new(".") })
        .args(["serve", "--config"])
        .arg(config)
        .args(setup.args)
        .envs(setup.env.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(folder.join(log)).unwrap())
        .spawn()
        .unwrap()
}

fn signal(child: &Child, what: Signal) {
    nix::sys::signal::kill(Pid::from_raw(child.id().try_into().unwrap()), what).unwrap();
}

fn config(folder: &Path, setup: &Setup<'_>) -> String {
    let Setup { listener, policy_lines, top, .. } = setup;
    let folder = folder.display();
    let telemetry = if top.contains("telemetry:") { "" } else { "telemetry: {log: json}\n" };
    let trust = if top.contains("trust:") {
        String::new()
    } else {
        format!("trust: {{domains: {{{DOMAIN}: {{bundle: bundle.pem}}}}}}\n")
    };
    let limits = if top.contains("limits:") { "" } else { "limits: {grace: 100ms, drain: 5s, decision: 1s}\n" };
    let records = if top.contains("records:") {
        String::new()
    } else {
        format!("records: {{sink: {{file: {{path: {folder}/records.jsonl}}}}}}\n")
    };
    let bundles = if policy_lines.starts_with("  bundles:") { "" } else { "  bundles: [{path: policy}]\n" };
    let decision = if policy_lines.contains("decision:") { "" } else { "  decision: envoy/authz/allow\n" };
    let evaluation = if policy_lines.contains("limits:") { "" } else { "  limits: {evaluation: 500ms}\n" };
    format!(
        "version: 1\n\
         listeners:\n\
         - address: unix://{folder}/authz.sock\n{listener}\
         {trust}\
         policy:\n{bundles}{decision}{evaluation}{policy_lines}\
         operations: {{address: \"127.0.0.1:0\"}}\n\
         {records}{telemetry}{limits}{top}"
    )
}
