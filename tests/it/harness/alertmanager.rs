//! A real Alertmanager, alone, whose alerts go nowhere.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    command, eventually,
    program::{Program, ask, free_address},
};

pub struct Alertmanager {
    program: Program,
    _folder: TempDir,
    address: SocketAddr,
}

impl Alertmanager {
    /// None, with a loud word, when it is not installed.
    pub fn start() -> Option<Self> {
        let alertmanager = Self::start_at(free_address(), None)?;
        alertmanager.wait_ready();
        Some(alertmanager)
    }

    /// At an address that somebody knows already; `web` is its own configuration of TLS.
    pub fn start_at(address: SocketAddr, web: Option<&str>) -> Option<Self> {
        let binary = binary()?;
        let folder = TempDir::new().unwrap();
        let config = folder.path().join("alertmanager.yaml");
        fs::write(&config, "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n").unwrap();
        let mut command = Command::new(binary);
        command
            .arg(format!("--config.file={}", config.display()))
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

/// None, with a loud word, when it is not installed.
pub fn binary() -> Option<PathBuf> {
    command("prometheus-alertmanager")
}
