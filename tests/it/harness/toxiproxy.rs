//! A real toxiproxy between doorward and a server, which spoils what the server answers.

use std::{collections::BTreeSet, fs, net::SocketAddr, process::Command};

use serde_json::{Value, json};

use super::{
    eventually, peer_at,
    program::{Program, ask, free_address},
};

pub struct Toxiproxy {
    _program: Program,
    api: SocketAddr,
    /// Where it takes connections to the server.
    pub address: SocketAddr,
}

impl Toxiproxy {
    /// None, with a loud word, when it is not installed.
    pub fn start(server: SocketAddr) -> Option<Self> {
        let binary = peer_at("toxiproxy", "bin/toxiproxy")?;
        let api = free_address();
        let host = api.ip().to_string();
        let program = Program::start(Command::new(binary).args(["-host", &host, "-port", &api.port().to_string()]));
        let proxy = json!({"name": "server", "listen": "127.0.0.1:0", "upstream": server, "enabled": true}).to_string();
        let made = eventually("toxiproxy", || ask(api, "POST", "/proxies", &[], &proxy));
        let address = made["listen"].as_str().and_then(|listen| listen.parse().ok());
        Some(Self { _program: program, api, address: address.unwrap_or_else(|| panic!("no proxy: {made}")) })
    }

    /// Spoils every answer from now on.
    pub fn poison(&self, kind: &str, attributes: &Value) {
        let toxic = json!({"name": "toxic", "type": kind, "stream": "downstream", "attributes": attributes}).to_string();
        let made = ask(self.api, "POST", "/proxies/server/toxics", &[], &toxic).unwrap();
        assert_eq!(made["type"], kind, "{made}");
    }

    pub fn cure(&self) {
        ask(self.api, "DELETE", "/proxies/server/toxics/toxic", &[], "").unwrap();
    }

    /// Connections that clients have open, by their ports.
    pub fn connections(&self) -> BTreeSet<String> {
        const ESTABLISHED: &str = "01";
        let own = format!("0100007F:{:04X}", self.address.port());
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        fields.filter(|fields| fields[2] == own && fields[3] == ESTABLISHED).map(|fields| fields[1].to_owned()).collect()
    }
}
