//! Where our own API listens, and for whom.

use std::{collections::BTreeSet, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use url::Url;

use super::{Address, Config, FileMode, Issuer, IssuerKind, Shown, tokens::check_issuers};

/// Our own gRPC API, for operators on this host: what `doorward session`, `revoke`, `inventory`, `status`, `tail` and `explain`
/// ask. Off unless this section is there; `control: {}` turns it on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// `unix:///path` or `unix://@abstract-name`.
    pub address: Address,
    /// Permission bits of the socket file.
    pub socket_mode: FileMode,
    /// User ids besides our own whose processes may ask. What they may do is `data.guard.control.allow`'s to say. Who may
    /// call a listener for Envoy may not call here by that.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub uids: BTreeSet<u32>,
    /// File with the Ed25519 key that signs the control log, as PEM (`openssl genpkey -algorithm ed25519`). Without it a key
    /// is made beside `state.memory.file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_key: Option<PathBuf>,
    /// Listen over TCP too: for workloads, known by their SVID, and for people, known by their token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<Remote>,
    /// Whose tokens people show. Without it nobody can approve or restore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc: Option<Oidc>,
}

/// Our own API over TCP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Remote {
    /// `tcp://0.0.0.0:9443`.
    pub address: Address,
    /// Our certificate and key from files, or `workload_api` for our own SVID. A caller may show an SVID of `trust.domains`.
    pub tls: Shown,
    /// What callers know it by: denials tell it those who may ask for a grant (`https://doorward.example:9443`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Url>,
}

/// People, who alone approve and restore.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Oidc {
    /// Issuers whose tokens are people's, written as in `tokens.issuers`, of kind `access_token` or `id_token`. A token that
    /// a client got for itself is refused.
    pub issuers: Vec<Issuer>,
    /// Claim that says who it is: what owners in the registry are written as.
    #[serde(default = "Oidc::email")]
    pub person_claim: String,
    /// Claim with the person's groups, of which an owner may be one.
    #[serde(default = "Oidc::groups")]
    pub groups_claim: String,
    /// Values of `acr` that are strong enough to approve and to restore; empty: any.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub acr: BTreeSet<String>,
    /// People and groups who may approve and restore by the policy that is built in. Nobody approves what they have asked
    /// for, or what is for a workload of theirs.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub approvers: BTreeSet<String>,
}

impl Oidc {
    fn email() -> String {
        "email".to_owned()
    }

    fn groups() -> String {
        "groups".to_owned()
    }
}

impl Control {
    pub(super) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Self { signing_key, remote, oidc, .. } = self;
        let keys = oidc.iter_mut().flat_map(|oidc| &mut oidc.issuers).flat_map(|issuer| issuer.keys.paths_mut());
        signing_key.iter_mut().chain(remote.iter_mut().flat_map(|remote| remote.tls.paths_mut())).chain(keys)
    }

    /// Files that are read again when they change.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let tls = self.remote.iter().filter_map(|remote| remote.tls.files()).flat_map(|tls| [&tls.certificate, &tls.key]);
        let keys = self.oidc.iter().flat_map(|oidc| &oidc.issuers).filter_map(|issuer| issuer.keys.file.as_ref());
        tls.chain(keys)
    }
}

impl Default for Control {
    fn default() -> Self {
        Self {
            address: Address::Unix("/run/doorward/control/control.sock".into()),
            socket_mode: FileMode::default(),
            uids: BTreeSet::new(),
            signing_key: None,
            remote: None,
            oidc: None,
        }
    }
}

/// What is wrong with it, as `(key, text)`.
pub(super) fn check(part: &Control, config: &Config, found: &mut Vec<(String, String)>) {
    let mut report = |key: &str, text: &str| found.push((format!("control.{key}"), text.to_owned()));
    if matches!(part.address, Address::Tcp(_)) {
        let text = "callers are known here by their user id, and TCP tells none; write `unix:///run/doorward/control/control.sock`, \
                    and what listens over TCP into `control.remote`";
        report("address", text);
    }
    if config.listeners.iter().any(|listener| listener.address == part.address) {
        report(
            "address",
            "Envoy is listened for here too; whoever may ask for decisions must not call this API, so choose another path",
        );
    }
    if let Some(remote) = &part.remote {
        if !matches!(remote.address, Address::Tcp(_)) {
            report("remote.address", "write an address like `tcp://0.0.0.0:9443`; a Unix socket is `control.address`");
        }
        if config.listeners.iter().any(|listener| listener.address == remote.address) {
            report("remote.address", "Envoy is listened for here too; choose another port");
        }
    }
    let Some(oidc) = &part.oidc else { return };
    if oidc.issuers.is_empty() {
        report("oidc.issuers", "nobody's tokens would be taken; write an issuer, or remove `oidc`");
    }
    for (index, issuer) in oidc.issuers.iter().enumerate() {
        if !matches!(issuer.kind, IssuerKind::AccessToken | IssuerKind::IdToken) {
            report(&format!("oidc.issuers[{index}].kind"), "people show an `access_token` or an `id_token`");
        }
        if config.tokens.issuers.iter().any(|other| other.issuer == issuer.issuer && overlap(&other.audiences, &issuer.audiences))
        {
            let text = "machines' tokens of this issuer are for the same audience (`tokens.issuers`), so that one could be taken \
                        for a person's; have another audience for people";
            report(&format!("oidc.issuers[{index}].audiences"), text);
        }
    }
    check_issuers(&oidc.issuers, "control.oidc.issuers", found);
}

fn overlap(some: &[String], others: &[String]) -> bool {
    some.iter().any(|one| others.contains(one))
}
