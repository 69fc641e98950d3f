//! One trust domain's bundle as it is published: PEM, or a SPIFFE bundle, which is a set of JSON Web Keys (SPIFFE Trust
//! Domain and Bundle §4). When a bundle counts, and in whose place, is the store's to say.

use std::sync::Arc;

use aws_lc_rs::digest;
use base64::{Engine, prelude::BASE64_STANDARD};
use rustls_pki_types::{
    CertificateDer, TrustAnchor,
    pem::{PemObject, SectionKind},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{json, verdict::Reason};

/// A public key that signs JWT-SVIDs, as its owner wrote it: it has a `kid`, and nothing private. What of it may be used
/// is judged where tokens are.
pub type Jwk = Map<String, Value>;

/// Deepest document.
const MAX_DEPTH: usize = 16;

/// SHA-256.
pub type Digest = [u8; digest::SHA256_OUTPUT_LEN];

/// Why a bundle cannot be used. `{0}` counts from 1.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("is malformed at block {0}; write PEM, one block a root certificate")]
    Pem(usize),
    #[error("holds no certificate but is not empty; write PEM or a SPIFFE bundle, or empty the file to trust nothing")]
    NoCertificate,
    #[error("has a block {0} that is no certificate; leave only certificates in it")]
    ForeignBlock(usize),
    #[error("has a certificate {0} that cannot be parsed; write it again from its source")]
    Certificate(usize),
    #[error("has a certificate {0} that is no certificate authority; list the roots that sign, not what they signed")]
    NotAuthority(usize),
    #[error("is no SPIFFE bundle ({0}); write it again from its source")]
    Json(String),
    #[error("has a key {0} of use `x509-svid` without a certificate in `x5c`; write it again from its source")]
    NoX5c(usize),
    #[error("has a key {0} of use `jwt-svid` without `kid`; write it again from its source")]
    NoKeyId(usize),
    #[error("has a key {0} with private parts; take them out, and replace the key, which is no secret any more")]
    Private(usize),
}

/// What vouches for one trust domain.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Of X.509-SVIDs. None of them: all SVIDs of the domain are invalid, which is how a domain is revoked as a whole.
    pub anchors: Vec<TrustAnchor<'static>>,
    /// Of JWT-SVIDs.
    pub jwt_keys: Arc<[Jwk]>,
    /// `spiffe_sequence`, by which an older bundle is known from a newer one.
    pub sequence: Option<u64>,
    /// Why it does not count at all for X.509-SVIDs, where it does not.
    pub withheld: Option<Reason>,
    /// Equal exactly when the same is trusted.
    pub contents: Digest,
}

impl Bundle {
    /// Reads either form; what it is shows in its first letter.
    pub fn read(text: &[u8]) -> Result<Self, BundleError> {
        match text.trim_ascii_start().first() {
            Some(b'{') => Self::from_json(text),
            _ => Self::from_pem(text),
        }
    }

    fn from_pem(text: &[u8]) -> Result<Self, BundleError> {
        let mut anchors = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
            let block = anchors.len() + 1;
            match section {
                Ok((SectionKind::Certificate, der)) => {
                    anchors.push(anchor(&CertificateDer::from(der)).map_err(|error| error.at(block))?);
                }
                Ok(_) => return Err(BundleError::ForeignBlock(block)),
                Err(_) => return Err(BundleError::Pem(block)),
            }
        }
        if anchors.is_empty() && !text.trim_ascii().is_empty() {
            return Err(BundleError::NoCertificate);
        }
        Ok(Self { anchors, jwt_keys: Arc::default(), sequence: None, withheld: None, contents: sha256(text) })
    }

    /// Keys of another type or use than we know are left out: a domain may publish more than we can use.
    fn from_json(text: &[u8]) -> Result<Self, BundleError> {
        let members = json::strict_object(text, MAX_DEPTH).map_err(|error| BundleError::Json(error.to_string()))?;
        let document = Document::deserialize(Value::Object(members)).map_err(|error| BundleError::Json(error.to_string()))?;
        let (mut anchors, mut jwt_keys) = (Vec::new(), Vec::new());
        for (key, number) in document.keys.into_iter().zip(1..) {
            let member = |name: &str| key.get(name).and_then(Value::as_str);
            match (member("kty"), member("use")) {
                (Some("EC" | "RSA" | "OKP"), Some("x509-svid")) => {
                    // The others of `x5c`, if there are any, are not the root (SPIFFE Trust Domain and Bundle §4.2.2).
                    let first = key.get("x5c").and_then(|chain| chain.get(0)).and_then(Value::as_str);
                    let der = first.and_then(|first| BASE64_STANDARD.decode(first).ok()).ok_or(BundleError::NoX5c(number))?;
                    anchors.push(anchor(&CertificateDer::from(der)).map_err(|error| error.at(number))?);
                }
                (Some("EC" | "RSA" | "OKP"), Some("jwt-svid")) => {
                    if is_private(&key) {
                        return Err(BundleError::Private(number));
                    }
                    if member("kid").is_none_or(str::is_empty) {
                        return Err(BundleError::NoKeyId(number));
                    }
                    jwt_keys.push(key);
                }
                _ => {}
            }
        }
        Ok(Self {
            anchors,
            jwt_keys: jwt_keys.into(),
            sequence: document.spiffe_sequence,
            withheld: None,
            contents: sha256(text),
        })
    }
}

/// The members of a SPIFFE bundle that matter here: how often to look is the watcher's affair.
#[derive(Deserialize)]
struct Document {
    keys: Vec<Jwk>,
    spiffe_sequence: Option<u64>,
}

/// Whether a JSON Web Key says more than the public needs (RFC 7518 §6.2.2, §6.3.2, §6.4.1).
pub fn is_private(key: &Jwk) -> bool {
    ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].iter().any(|name| key.contains_key(*name))
}

/// Why a certificate is no root.
pub enum NotAnchor {
    Malformed,
    NotAuthority,
}

impl NotAnchor {
    fn at(self, number: usize) -> BundleError {
        match self {
            Self::Malformed => BundleError::Certificate(number),
            Self::NotAuthority => BundleError::NotAuthority(number),
        }
    }
}

/// A root must be an authority (SPIFFE X.509-SVID §3.2): anything would do as a trust anchor for webpki, also a workload's
/// certificate that was put into the bundle by mistake and could then vouch for others.
pub fn anchor(der: &CertificateDer<'_>) -> Result<TrustAnchor<'static>, NotAnchor> {
    if !is_authority(der).ok_or(NotAnchor::Malformed)? {
        return Err(NotAnchor::NotAuthority);
    }
    webpki::anchor_from_trusted_cert(der).map(|anchor| anchor.to_owned()).map_err(|_| NotAnchor::Malformed)
}

/// Whether the certificate may sign others: `cA`, and `keyCertSign` where it has key usages. Nothing if it cannot be
/// parsed.
pub fn is_authority(der: &[u8]) -> Option<bool> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    let constraints = certificate.basic_constraints().ok()?;
    let usage = certificate.key_usage().ok()?;
    let authority = constraints.is_some_and(|it| it.value.ca) && usage.is_none_or(|it| it.value.key_cert_sign());
    rest.is_empty().then_some(authority)
}

pub fn sha256(bytes: &[u8]) -> Digest {
    let mut sum = Digest::default();
    sum.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    sum
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::trust::testing::Authority;

    fn x5c(authority: &Authority) -> String {
        BASE64_STANDARD.encode(authority.certificate.der())
    }

    #[test]
    fn a_spiffe_bundle_is_read_by_its_rules() {
        let (root, other) = (Authority::new("root"), Authority::new("other"));
        let leaf = BASE64_STANDARD.encode(root.svid("spiffe://td.test/a").der());
        let x509 = json!({"use": "x509-svid", "kty": "EC", "crv": "P-256", "x": "a", "y": "b", "x5c": [x5c(&root)]});
        let jwt = json!({"use": "jwt-svid", "kty": "EC", "kid": "k1", "crv": "P-256", "x": "a", "y": "b"});
        let with = |key: &Value, name: &str, value: Value| {
            let mut key = key.clone();
            key[name] = value;
            key
        };
        let without = |key: &Value, name: &str| {
            let mut key = key.clone();
            key.as_object_mut().unwrap().remove(name);
            key
        };
        // Keys, then how many roots and how many JWT keys come of them, or why none do.
        type Row = (&'static str, Vec<Value>, Result<(usize, usize), &'static str>);
        let table: Vec<Row> = vec![
            ("both kinds", vec![x509.clone(), jwt.clone()], Ok((1, 1))),
            ("two roots", vec![x509.clone(), with(&x509, "x5c", json!([x5c(&other)]))], Ok((2, 0))),
            ("F-1 first x5c only", vec![with(&x509, "x5c", json!([x5c(&root), "!"]))], Ok((1, 0))),
            ("F-1 unknown kty", vec![with(&x509, "kty", json!("PQC")), with(&jwt, "kty", json!("oct"))], Ok((0, 0))),
            ("F-1 no kty", vec![without(&x509, "kty"), without(&jwt, "kty")], Ok((0, 0))),
            ("F-1 unknown use", vec![with(&x509, "use", json!("wit-svid")), with(&jwt, "use", json!("sig"))], Ok((0, 0))),
            ("F-1 no use", vec![without(&x509, "use"), without(&jwt, "use")], Ok((0, 0))),
            ("X-9 no keys", vec![], Ok((0, 0))),
            ("no x5c", vec![jwt.clone(), without(&x509, "x5c")], Err("key 2 of use `x509-svid`")),
            ("empty x5c", vec![with(&x509, "x5c", json!([]))], Err("key 1 of use `x509-svid`")),
            ("x5c in base64url", vec![with(&x509, "x5c", json!(["_-_-"]))], Err("key 1 of use `x509-svid`")),
            ("x5c of rubbish", vec![with(&x509, "x5c", json!(["AAAA"]))], Err("certificate 1 that cannot be parsed")),
            ("a leaf for a root", vec![with(&x509, "x5c", json!([leaf]))], Err("certificate 1 that is no certificate authority")),
            ("no kid", vec![without(&jwt, "kid")], Err("key 1 of use `jwt-svid` without `kid`")),
            ("empty kid", vec![with(&jwt, "kid", json!(""))], Err("key 1 of use `jwt-svid` without `kid`")),
            ("a private key", vec![with(&jwt, "d", json!("s3cr3t"))], Err("key 1 with private parts")),
        ];
        for (name, keys, expected) in table {
            let text = json!({"keys": keys, "spiffe_sequence": 7, "spiffe_refresh_hint": 300}).to_string();
            match (Bundle::read(format!("\n {text}").as_bytes()), expected) {
                (Ok(bundle), Ok(counts)) => {
                    assert_eq!((bundle.anchors.len(), bundle.jwt_keys.len()), counts, "{name}");
                    assert_eq!(bundle.sequence, Some(7), "{name}");
                }
                (Err(error), Err(expected)) => {
                    assert!(error.to_string().contains(expected), "{name}: {error}");
                    assert!(!error.to_string().contains("s3cr3t"), "{name}");
                }
                (result, expected) => panic!("{name}: {result:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn what_is_no_spiffe_bundle_is_refused() {
        for (name, text) in [
            ("no keys", r#"{"spiffe_sequence": 1}"#),
            ("keys that are none", r#"{"keys": {}}"#),
            ("a key that is none", r#"{"keys": ["a"]}"#),
            ("F-1 a name twice", r#"{"keys": [], "keys": []}"#),
            ("F-1 a name twice within a key", r#"{"keys": [{"use": "x509-svid", "use": "jwt-svid", "kty": "EC"}]}"#),
            ("F-1 an unknown name twice", r#"{"keys": [], "x": 1, "x": 2}"#),
            ("a negative sequence", r#"{"keys": [], "spiffe_sequence": -1}"#),
            ("a broken sequence", r#"{"keys": [], "spiffe_sequence": 1.5}"#),
            ("a sequence in text", r#"{"keys": [], "spiffe_sequence": "1"}"#),
            ("cut short", r#"{"keys": ["#),
            ("more behind it", r#"{"keys": []} x"#),
        ] {
            assert!(matches!(Bundle::read(text.as_bytes()), Err(BundleError::Json(_))), "{name}");
        }
        assert_eq!(Bundle::read(br#"{"keys": []}"#).unwrap().sequence, None);
    }
}
