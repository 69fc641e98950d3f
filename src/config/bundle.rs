//! `policy.bundles` and `policy.signing`: where policy comes from, and whose signature it must bear.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::{Policy, Shown, Span};

/// One source of policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Keys", into = "Keys")]
pub struct Bundle {
    /// What it is called in messages and in the cache; a download always has a name.
    pub name: Option<String>,
    pub source: Source,
    pub signing: Option<Signing>,
    /// Accepted without a signature although keys are configured.
    pub unsigned: bool,
    pub forbid_rollback: bool,
}

/// Where a bundle is.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    Path(PathBuf),
    Url(Box<Download>),
}

/// A bundle that is fetched, and fetched again.
#[derive(Debug, Clone, PartialEq)]
pub struct Download {
    pub name: String,
    pub url: Url,
    pub token_file: Option<PathBuf>,
    pub tls: Option<Shown>,
    pub ca: Option<PathBuf>,
    pub poll: Poll,
}

/// How long to wait from one request for a bundle to the next.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Poll {
    /// Shortest time after a successful request.
    pub min: Span,
    /// Longest time, after failures too: these start with half a second or `min`, what is shorter, and double.
    pub max: Span,
    /// Longest time for one request, its answer included.
    pub timeout: Span,
}

impl Default for Poll {
    fn default() -> Self {
        Self { min: Span::millis(60_000), max: Span::millis(120_000), timeout: Span::millis(60_000) }
    }
}

/// Whose signature a bundle must bear. Under a bundle, each key that is there takes the place of the one under `policy`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Signing {
    /// Key id to the key that verifies.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, SigningKey>,
    /// The id of the key to use, whatever the signature says; needed where it says nothing and there are several keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyid: Option<String>,
    /// What the signature's `scope` claim must say; without it, the signature must have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Files that the signature need not cover, as patterns of whole paths in which `*` stops at `/`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SigningKey {
    pub algorithm: SigningAlgorithm,
    /// PEM file with the public key, or for `HS…` a file whose bytes are the secret, a final newline included.
    pub key_file: PathBuf,
}

/// How bundles are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SigningAlgorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
    HS256,
    HS384,
    HS512,
}

/// A bundle as it stands in the file: with `path` or with `url`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    /// A `.rego`, `.json` or `.yaml` file, a folder, or a `.tar.gz` bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    /// Instead of `path`: the address of a `.tar.gz` bundle, `https://…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<Url>,
    /// What it is called in messages, records and the cache. Needed with `url` and with `forbid_rollback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$"))]
    name: Option<String>,
    /// With `url`: file with a bearer token, read again before each request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,
    /// With `url`: the certificate that we show to the server, from files or with `workload_api` our own SVID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls: Option<Shown>,
    /// With `url`: PEM file of the authorities that the server's certificate may come from, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    /// With `url`: how often to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    poll: Option<Poll>,
    /// With `url`: allow `http://` to another host. Whoever is on the way may write the policy, unless it is signed.
    #[serde(default)]
    insecure: bool,
    /// What of `policy.signing` is different for this bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signing: Option<Signing>,
    /// Accept this bundle without looking for a signature, although `policy.signing` has keys.
    #[serde(default)]
    unsigned: bool,
    /// Refuse a manifest `revision` older than the newest one that was in force. Revisions are compared as whole
    /// numbers, as RFC 3339 times or as versions like `1.4.2`; of another form, or of two forms, they are refused.
    #[serde(default)]
    forbid_rollback: bool,
}

impl TryFrom<Keys> for Bundle {
    type Error = String;

    fn try_from(keys: Keys) -> Result<Self, String> {
        let Keys { path, url, name, token_file, tls, ca, poll, insecure, signing, unsigned, forbid_rollback } = keys;
        if let Some(name) = name.as_ref().filter(|name| !is_name(name)) {
            return Err(format!("`{name}` is no bundle name; use up to 64 letters, digits, `_`, `-` and, not first, `.`"));
        }
        if forbid_rollback && name.is_none() {
            return Err("`forbid_rollback` needs a `name` to remember the revision by; add one".to_owned());
        }
        if unsigned && signing.is_some() {
            return Err("`unsigned: true` contradicts `signing`; remove one of the two".to_owned());
        }
        let source = match (path, url) {
            (Some(path), None) => {
                let stray = token_file.is_some() || tls.is_some() || ca.is_some() || poll.is_some() || insecure;
                if stray {
                    return Err("`token_file`, `tls`, `ca`, `poll` and `insecure` go with `url`; remove them".to_owned());
                }
                Source::Path(path)
            }
            (None, Some(url)) => {
                check_url(&url, insecure)?;
                let name = name.clone().ok_or("a bundle with `url` needs a `name`; add one, like `main`")?;
                let poll = poll.unwrap_or_default();
                if poll.max < poll.min {
                    return Err("`poll.max` is shorter than `poll.min`; swap them".to_owned());
                }
                Source::Url(Box::new(Download { name, url, token_file, tls, ca, poll }))
            }
            (Some(_), Some(_)) => return Err("a bundle has a `path` or a `url`, not both; write two bundles".to_owned()),
            (None, None) => return Err("a bundle needs a `path` or a `url`".to_owned()),
        };
        Ok(Self { name, source, signing, unsigned, forbid_rollback })
    }
}

impl From<Bundle> for Keys {
    fn from(bundle: Bundle) -> Self {
        let Bundle { name, source, signing, unsigned, forbid_rollback } = bundle;
        let keys = Self {
            path: None,
            url: None,
            name,
            token_file: None,
            tls: None,
            ca: None,
            poll: None,
            insecure: false,
            signing,
            unsigned,
            forbid_rollback,
        };
        match source {
            Source::Path(path) => Self { path: Some(path), ..keys },
            Source::Url(download) => {
                let Download { name: _, url, token_file, tls, ca, poll } = *download;
                let insecure = check_url(&url, false).is_err();
                Self { url: Some(url), token_file, tls, ca, poll: Some(poll), insecure, ..keys }
            }
        }
    }
}

impl JsonSchema for Bundle {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Bundle".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Keys::json_schema(generator)
    }
}

impl Bundle {
    /// A file, folder or archive and nothing else said about it.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { name: None, source: Source::Path(path.into()), signing: None, unsigned: false, forbid_rollback: false }
    }

    pub fn path(&self) -> Option<&Path> {
        match &self.source {
            Source::Path(path) => Some(path),
            Source::Url(_) => None,
        }
    }

    pub fn download(&self) -> Option<&Download> {
        match &self.source {
            Source::Path(_) => None,
            Source::Url(download) => Some(download),
        }
    }

    /// Every path in it.
    pub(super) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let mut paths = Vec::new();
        match &mut self.source {
            Source::Path(path) => paths.push(path),
            Source::Url(download) => {
                let Download { token_file, tls, ca, .. } = &mut **download;
                paths.extend(token_file.as_mut());
                paths.extend(ca.as_mut());
                paths.extend(tls.iter_mut().flat_map(Shown::paths_mut));
            }
        }
        paths.extend(self.signing.as_mut().into_iter().flat_map(Signing::paths_mut));
        paths.into_iter()
    }
}

impl Signing {
    pub(super) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.keys.values_mut().map(|key| &mut key.key_file)
    }
}

impl Policy {
    /// Whose signature `bundle` must bear; none when it need not be signed.
    pub fn signing_of(&self, bundle: &Bundle) -> Option<Signing> {
        if bundle.unsigned {
            return None;
        }
        let Some(own) = &bundle.signing else { return self.signing.clone() };
        let set = self.signing.clone().unwrap_or_default();
        Some(Signing {
            keys: if own.keys.is_empty() { set.keys } else { own.keys.clone() },
            keyid: own.keyid.clone().or(set.keyid),
            scope: own.scope.clone().or(set.scope),
            exclude: if own.exclude.is_empty() { set.exclude } else { own.exclude.clone() },
        })
    }

    /// The bundles to fetch.
    pub fn downloads(&self) -> impl Iterator<Item = &Download> {
        self.bundles.iter().filter_map(Bundle::download)
    }
}

/// What spans several bundles, as `(key, text)`.
pub(super) fn check(policy: &Policy, found: &mut Vec<(String, String)>) {
    let mut names = BTreeMap::new();
    for (index, bundle) in policy.bundles.iter().enumerate() {
        let mut report = |key: &str, text: String| found.push((format!("policy.bundles[{index}]{key}"), text));
        if let Some(name) = &bundle.name
            && let Some(other) = names.insert(name, index)
        {
            report(".name", format!("`{name}` is the name of `policy.bundles[{other}]` too; rename one"));
        }
        if bundle.forbid_rollback && policy.cache.is_none() {
            let text = "the newest revision must outlive a restart; set `policy.cache` to a folder that we may write";
            report(".forbid_rollback", text.to_owned());
        }
        if bundle.signing.is_some()
            && let Some(text) = policy.signing_of(bundle).and_then(|signing| wrong(&signing))
        {
            report(".signing", text);
        }
    }
    for (index, bundle) in policy.shadow.iter().flat_map(|shadow| &shadow.bundles).enumerate() {
        if bundle.download().is_some() || bundle.forbid_rollback {
            let text = "the second policy set is not fetched, nor its revisions remembered; name a `path` alone".to_owned();
            found.push((format!("policy.shadow.bundles[{index}]"), text));
        }
    }
    if let Some(text) = policy.signing.as_ref().and_then(wrong) {
        found.push(("policy.signing".to_owned(), text));
    }
}

fn wrong(signing: &Signing) -> Option<String> {
    if signing.keys.is_empty() {
        return Some("there is no key to verify with; add one under `keys`".to_owned());
    }
    let unknown = signing.keyid.as_ref().filter(|id| !signing.keys.contains_key(*id))?;
    Some(format!("`keyid: {unknown}` is none of `keys`; add the key or correct the id"))
}

/// It becomes a file name.
pub(super) fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !name.is_empty() && name.len() <= 64 && !name.starts_with('.') && name.bytes().all(plain)
}

fn check_url(url: &Url, insecure: bool) -> Result<(), String> {
    match reach(url) {
        Reach::Safe => Ok(()),
        Reach::Plain if insecure => Ok(()),
        Reach::Plain => {
            Err("`http://` lets whoever is on the way write the policy; use `https://`, or write `insecure: true`".to_owned())
        }
        Reach::Credentials => Err("credentials do not belong in the address; use `token_file`".to_owned()),
        Reach::Other => Err(format!("`{}://` is no address of a bundle; use `https://`", url.scheme())),
    }
}

/// How a server is reached.
pub(super) enum Reach {
    /// Over TLS, or on this machine.
    Safe,
    /// Over a network that others may read and write.
    Plain,
    /// With a password in the address, which is shown and logged.
    Credentials,
    /// Not over HTTP at all.
    Other,
}

pub(super) fn reach(url: &Url) -> Reach {
    if !url.username().is_empty() || url.password().is_some() {
        return Reach::Credentials;
    }
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => Reach::Safe,
        "http" if loopback => Reach::Safe,
        "http" => Reach::Plain,
        _ => Reach::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(text: &str) -> Result<Bundle, String> {
        serde_saphyr::from_str::<Bundle>(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_bundle_is_one_thing_or_the_other_and_reads_back_the_same() {
        for (text, expected) in [
            ("path: p", Ok(())),
            ("url: https://h/b.tar.gz\nname: main", Ok(())),
            ("url: http://127.0.0.1:1/b\nname: main", Ok(())),
            ("url: http://[::1]:1/b\nname: main", Ok(())),
            ("url: http://localhost/b\nname: main", Ok(())),
            ("url: http://h/b\nname: main\ninsecure: true", Ok(())),
            ("url: https://h/b\nname: m\npoll: {min: 1s, max: 2s}\ntoken_file: t\nca: c\ntls: {certificate: a, key: b}", Ok(())),
            ("path: p\nsigning: {keyid: k}\n", Ok(())),
            ("{}", Err("needs a `path` or a `url`")),
            ("path: p\nurl: https://h/b\nname: m", Err("not both")),
            ("url: https://h/b", Err("needs a `name`")),
            ("url: http://h/b\nname: m", Err("insecure: true")),
            ("url: http://localhost.evil/b\nname: m", Err("insecure: true")),
            ("url: file:///b\nname: m", Err("is no address")),
            ("url: https://u:p@h/b\nname: m", Err("credentials")),
            ("path: p\npoll: {min: 1s}", Err("go with `url`")),
            ("path: p\nname: ../x", Err("no bundle name")),
            ("path: p\nname: .x", Err("no bundle name")),
            ("path: p\nforbid_rollback: true", Err("needs a `name`")),
            ("path: p\nunsigned: true\nsigning: {keyid: k}", Err("contradicts")),
            ("url: https://h/b\nname: m\npoll: {min: 2s, max: 1s}", Err("swap them")),
            ("path: p\nsurprise: 1", Err("surprise")),
        ] {
            match (bundle(text), expected) {
                (Ok(read), Ok(())) => assert_eq!(bundle(&serde_saphyr::to_string(&read).unwrap()), Ok(read), "{text}"),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{text}: {error}"),
                (read, expected) => panic!("{text}: {read:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn a_bundle_refines_the_signing_of_the_set() {
        let signing = |text: &str| serde_saphyr::from_str::<Signing>(text).unwrap();
        let set = signing("keys: {a: {algorithm: RS256, key_file: a.pem}}\nscope: write");
        let mut policy = Policy { signing: Some(set.clone()), ..Policy::at("p") };
        assert_eq!(policy.signing_of(&policy.bundles[0]), Some(set));
        policy.bundles[0].signing = Some(signing("scope: read\nkeyid: b"));
        let refined = policy.signing_of(&policy.bundles[0]).unwrap();
        assert_eq!((refined.scope.as_deref(), refined.keys.len()), (Some("read"), 1));
        let mut found = Vec::new();
        check(&policy, &mut found);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, "policy.bundles[0].signing");
        policy.bundles[0] = Bundle { unsigned: true, ..Bundle::at("p") };
        assert_eq!(policy.signing_of(&policy.bundles[0]), None);
    }
}
