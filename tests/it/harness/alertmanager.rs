//! A real Alertmanager, alone, and what it notifies.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{Arc, Mutex},
};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    command, eventually,
    program::{Program, ask, free_address},
};

/// A configuration that notifies nobody.
const NOWHERE: &str = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n";

pub struct Alertmanager {
    program: Program,
    _folder: TempDir,
    address: SocketAddr,
}

impl Alertmanager {
    /// None, with a loud word, when it is not installed.
    pub fn start() -> Option<Self> {
        Self::routing(NOWHERE)
    }

    /// With a configuration of its own.
    pub fn routing(config: &str) -> Option<Self> {
        let alertmanager = Self::run(free_address(), config, None)?;
        alertmanager.wait_ready();
        Some(alertmanager)
    }

    /// At an address that somebody knows already; `web` is what it says about TLS.
    pub fn start_at(address: SocketAddr, web: Option<&str>) -> Option<Self> {
        Self::run(address, NOWHERE, web)
    }

    fn run(address: SocketAddr, config: &str, web: Option<&str>) -> Option<Self> {
        let binary = command("prometheus-alertmanager")?;
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("alertmanager.yaml");
        fs::write(&path, config).unwrap();
        let mut command = Command::new(binary);
        command
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.path={}", folder.path().display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=");
        if let Some(web) = web {
            let path = folder.path().join("web.yaml");
            fs::write(&path, web).unwrap();
            command.arg(format!("--web.config.file={}", path.display()));
        }
        Some(Self { program: Program::start(&mut command), _folder: folder, address })
    }

    pub fn wait_ready(&self) {
        eventually("Alertmanager", || self.list().map(drop));
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The alerts that are not over.
    pub fn alerts(&self) -> Vec<Value> {
        self.list().unwrap_or_default()
    }

    fn list(&self) -> Option<Vec<Value>> {
        serde_json::from_value(ask(self.address, "GET", "/api/v2/alerts", &[], "")?).ok()
    }

    /// The alert of a name and a principal, once it is there.
    pub fn alert(&self, name: &str, principal: &str) -> Value {
        eventually(&format!("{name} of {principal}"), || self.find(name, principal))
    }

    pub fn find(&self, name: &str, principal: &str) -> Option<Value> {
        let alerts = self.alerts().into_iter();
        let mut found = alerts.filter(|alert| alert["labels"]["alertname"] == name && alert["labels"]["principal"] == principal);
        let first = found.next();
        assert_eq!(found.next(), None, "two of one: {first:?}");
        first
    }

    pub fn signal(&self, what: Signal) {
        self.program.signal(what);
    }
}

/// Whom an Alertmanager notifies, by webhook.
pub struct Receiver {
    pub address: SocketAddr,
    /// Path and body of what came.
    seen: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Receiver {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<_>>>::default());
        let receiver = Self { address, seen: Arc::clone(&seen) };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                seen.lock().unwrap().extend(take(stream));
            }
        });
        receiver
    }

    /// The status of a notification of `path` that has an alert of the name, the latest first.
    pub fn statuses(&self, path: &str, name: &str) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        let alerts = seen.iter().rev().filter(|(to, _)| to == path).flat_map(|(_, body)| body["alerts"].as_array()).flatten();
        let named = alerts.filter(|alert| alert["labels"]["alertname"] == name);
        named.map(|alert| alert["status"].as_str().unwrap().to_owned()).collect()
    }
}

/// One request, answered with yes.
fn take(stream: TcpStream) -> Option<(String, Value)> {
    let mut reader = BufReader::new(stream);
    let (mut lines, mut line) = (Vec::new(), String::new());
    while reader.read_line(&mut line).ok()? > 2 {
        lines.push(std::mem::take(&mut line));
    }
    let length = lines.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.trim().parse().ok())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").ok()?;
    Some((lines.first()?.split(' ').nth(1)?.to_owned(), serde_json::from_slice(&body).ok()?))
}
