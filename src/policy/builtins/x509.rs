//! `crypto.x509.*` and `crypto.parse_private_keys`: certificates, requests and keys as Go's JSON shows them. `certificate`
//! shows, `extension` reads the extensions, `chain` verifies, `private` has the keys.

mod certificate;
mod chain;
mod extension;
mod private;

use regorus::Value;
use serde_json::{Map, Value as Json, json};
use x509_parser::{certificate::X509Certificate, certification_request::X509CertificationRequest, prelude::FromDer};

use self::{certificate::base64, chain::Demands, private::PrivateKey};
use super::{Builtin, Fault, pem, text_operand, within};

pub(super) const X509: &[Builtin] = &[
    Builtin { name: "crypto.x509.parse_certificates", arity: 1, run: parse_certificates },
    Builtin { name: "crypto.x509.parse_and_verify_certificates", arity: 1, run: parse_and_verify },
    Builtin { name: "crypto.x509.parse_and_verify_certificates_with_options", arity: 2, run: parse_and_verify_with_options },
    Builtin { name: "crypto.x509.parse_certificate_request", arity: 1, run: parse_request },
    Builtin { name: "crypto.x509.parse_keypair", arity: 2, run: parse_pair },
    Builtin { name: "crypto.x509.parse_rsa_private_key", arity: 1, run: parse_to_jwk },
    Builtin { name: "crypto.parse_private_keys", arity: 1, run: parse_private_keys },
];

/// Most certificates, and most keys, of one text.
const MAX_ITEMS: usize = 100;

/// Who sees a certificate: where OPA adds the URIs as texts, and where it does not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Uris {
    AlsoAsText,
    Plain,
}

fn parse_certificates(args: &[Value]) -> Result<Value, Fault> {
    let ders = certificates(text_operand(args, 0)?)?;
    show_all(&parsed(&ders)?, Uris::AlsoAsText).map(Value::from)
}

fn show_all(certificates: &[X509Certificate<'_>], uris: Uris) -> Result<Json, Fault> {
    certificates.iter().map(|certificate| show(certificate, uris)).collect()
}

fn show(certificate: &X509Certificate<'_>, uris: Uris) -> Result<Json, Fault> {
    let mut shown = certificate::show(certificate)?;
    let texts = shown.remove(extension::URI_TEXTS).unwrap_or(Json::Null);
    if uris == Uris::AlsoAsText {
        shown.insert("URIStrings".to_owned(), texts);
    }
    Ok(Json::Object(shown))
}

fn parse_and_verify(args: &[Value]) -> Result<Value, Fault> {
    verified(text_operand(args, 0)?, || Ok(Demands::default()), Uris::AlsoAsText)
}

fn parse_and_verify_with_options(args: &[Value]) -> Result<Value, Fault> {
    let text = text_operand(args, 0)?;
    verified(text, || Demands::of(args.get(1)), Uris::Plain)
}

/// `[true, chain]` from the leaf to the root, or `[false, []]`. The text begins with the root and ends with the leaf.
fn verified(text: &str, demands: impl FnOnce() -> Result<Demands, Fault>, uris: Uris) -> Result<Value, Fault> {
    let refused = || Value::from(json!([false, []]));
    let Ok(ders) = certificates(text) else { return Ok(refused()) };
    let Ok(parsed) = parsed(&ders) else { return Ok(refused()) };
    let demands = demands()?;
    Ok(match chain::verified(&parsed, &demands)? {
        Some(chain) => {
            let chain: Vec<_> = chain.into_iter().cloned().collect();
            Value::from(json!([true, show_all(&chain, uris)?]))
        }
        None => refused(),
    })
}

/// The DER of each certificate. The text is PEM, or Base64 of PEM or DER.
fn certificates(text: &str) -> Result<Vec<u8>, Fault> {
    if pem::is_pem(text) {
        return from_pem(text);
    }
    let bytes = pem::base64(text)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) if pem::is_pem(text) => from_pem(text),
        _ => Ok(bytes),
    }
}

fn from_pem(text: &str) -> Result<Vec<u8>, Fault> {
    let (mut ders, mut rest) = (Vec::new(), text);
    while let Some(block) = pem::next(rest) {
        if block.label != "CERTIFICATE" {
            return Err(Fault(format!("PEM block type is '{}', expected CERTIFICATE", block.label)));
        }
        ders.extend(block.bytes);
        rest = block.rest;
    }
    Ok(ders)
}

fn parsed(mut ders: &[u8]) -> Result<Vec<X509Certificate<'_>>, Fault> {
    let mut found = Vec::new();
    while !ders.is_empty() {
        within(found.len() < MAX_ITEMS, "too many certificates")?;
        let (rest, certificate) = X509Certificate::from_der(ders).map_err(|_| Fault::from("x509: malformed certificate"))?;
        found.push(certificate);
        ders = rest;
    }
    Ok(found)
}

fn parse_request(args: &[Value]) -> Result<Value, Fault> {
    let text = text_operand(args, 0)?;
    let bytes = if pem::is_pem(text) { text.as_bytes().to_vec() } else { pem::base64(text)? };
    let block = std::str::from_utf8(&bytes).ok().and_then(pem::next);
    let der = match block {
        Some(block) if block.label == "CERTIFICATE REQUEST" => block.bytes,
        Some(_) => return Err("invalid PEM-encoded certificate signing request".into()),
        None => bytes,
    };
    match X509CertificationRequest::from_der(&der) {
        Ok(([], request)) => certificate::show_request(&request).map(|shown| Value::from(Json::Object(shown))),
        _ => Err("asn1: structure error".into()),
    }
}

/// Certificates and the key of the first, as Go's `tls.Certificate`.
fn parse_pair(args: &[Value]) -> Result<Value, Fault> {
    let (certificates, key) = (text_operand(args, 0)?, text_operand(args, 1)?);
    let ders = match decoded(certificates)? {
        Decoded::Text(text) => blocks(&text, |label| label == "CERTIFICATE")?,
        Decoded::Bytes(der) => vec![der],
    };
    let first = ders.first().ok_or("tls: failed to find any PEM data in certificate input")?;
    let keys = match decoded(key)? {
        Decoded::Text(text) => blocks(&text, |label| label == "PRIVATE KEY" || label.ends_with(" PRIVATE KEY"))?,
        Decoded::Bytes(der) => vec![der],
    };
    let key = PrivateKey::of_any(keys.first().ok_or("tls: failed to find any PEM data in key input")?)?;
    let Ok((_, leaf)) = X509Certificate::from_der(first) else { return Err("x509: malformed certificate".into()) };
    let leaf = show(&leaf, Uris::Plain)?;
    if leaf.get("PublicKey") != Some(&key.public()) {
        return Err("tls: private key does not match public key".into());
    }
    Ok(Value::from(json!({
        "Certificate": ders.iter().map(|der| base64(der)).collect::<Json>(),
        "Leaf": leaf,
        "OCSPStaple": null,
        "PrivateKey": key.show(),
        "SignedCertificateTimestamps": null,
        "SupportedSignatureAlgorithms": null,
    })))
}

enum Decoded {
    Text(String),
    Bytes(Vec<u8>),
}

/// PEM, or Base64 of PEM or DER.
fn decoded(text: &str) -> Result<Decoded, Fault> {
    if pem::is_pem(text) {
        return Ok(Decoded::Text(text.to_owned()));
    }
    Ok(match String::from_utf8(pem::base64(text)?) {
        Ok(text) if pem::is_pem(&text) => Decoded::Text(text),
        Ok(text) => Decoded::Bytes(text.into_bytes()),
        Err(error) => Decoded::Bytes(error.into_bytes()),
    })
}

fn blocks(text: &str, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<Vec<u8>>, Fault> {
    let (mut found, mut rest) = (Vec::new(), text);
    while let Some(block) = pem::next(rest) {
        within(found.len() < MAX_ITEMS, "too many PEM blocks")?;
        rest = block.rest;
        if is_wanted(block.label) {
            found.push(block.bytes);
        }
    }
    Ok(found)
}

/// The first private key as a JSON Web Key, of whatever kind it is.
fn parse_to_jwk(args: &[Value]) -> Result<Value, Fault> {
    let text = text_operand(args, 0)?;
    if text.is_empty() {
        return Err("input PEM data was empty".into());
    }
    let keys = match decoded(text)? {
        Decoded::Text(text) => private_keys(&text)?,
        Decoded::Bytes(_) => Vec::new(),
    };
    Ok(keys.first().map_or(Value::Null, |key| Value::from(key.jwk())))
}

fn parse_private_keys(args: &[Value]) -> Result<Value, Fault> {
    let text = text_operand(args, 0)?;
    if text.is_empty() {
        return Ok(Value::Null);
    }
    let decoded = pem::base64(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let keys = private_keys(decoded.as_deref().unwrap_or(text))?;
    Ok(Value::from(keys.iter().map(PrivateKey::show).collect::<Json>()))
}

/// Every private key of a PEM text; blocks of other kinds are passed over.
fn private_keys(text: &str) -> Result<Vec<PrivateKey>, Fault> {
    let (mut keys, mut rest) = (Vec::new(), text);
    while let Some(block) = pem::next(rest) {
        within(keys.len() < MAX_ITEMS, "too many private keys")?;
        rest = block.rest;
        match block.label {
            "RSA PRIVATE KEY" => keys.push(PrivateKey::of_pkcs1(&block.bytes)?),
            "PRIVATE KEY" => keys.push(PrivateKey::of_pkcs8(&block.bytes)?),
            "EC PRIVATE KEY" => keys.push(PrivateKey::of_sec1(&block.bytes)?),
            _ => {}
        }
    }
    Ok(keys)
}

type Members = Map<String, Json>;

#[cfg(test)]
mod tests;
