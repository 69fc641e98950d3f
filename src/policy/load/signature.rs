//! `.signatures.json` of an OPA bundle: one JWT that lists every file with its digest. A bundle whose set has keys is
//! used only when a key of the configuration made the signature, it is in force, and it covers exactly the files there
//! are. How a file is digested is `digest`'s.

mod digest;

use std::{collections::BTreeMap, fs, path::Path};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::Deserialize;
use serde_json::Number;

use super::File;
use crate::{
    clock::Now,
    config::{Signing, SigningAlgorithm, SigningKey},
    policy::problem::{Code, Problem},
};

pub(super) const FILE: &str = ".signatures.json";

/// What the file holds.
#[derive(Deserialize)]
struct Signatures {
    #[serde(default)]
    signatures: Vec<String>,
    #[serde(default)]
    plugin: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
}

/// The payload: what of it concerns us.
#[derive(Deserialize)]
struct Claims {
    files: Vec<Listed>,
    /// Where older signers name the key.
    #[serde(default)]
    keyid: String,
    #[serde(default)]
    scope: String,
    exp: Option<Number>,
    nbf: Option<Number>,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    hash: String,
    algorithm: String,
}

/// Whether the bundle bears a signature at all, sound or not.
pub(super) fn is_signed(files: &[File]) -> bool {
    let Some(file) = find(files) else { return false };
    serde_json::from_slice::<Signatures>(&file.bytes)
        .map_or(true, |found| !found.signatures.is_empty() || !found.plugin.is_empty())
}

/// Refuses `files` unless their signature is one that `signing` asks for. `folder` is where a bundle that is no archive
/// stands: its signer may have named the files by the way to it.
pub(super) fn verify(label: &str, files: &[File], folder: Option<&Path>, signing: &Signing, now: Now) -> Result<(), Problem> {
    let refuse = |text: String| Problem::of_file(Code::Signature, label, text);
    let file = find(files).ok_or_else(|| {
        refuse(format!(
            "bears no signature (`{FILE}`), and `policy.signing` has keys; sign it with `opa sign`, or write `unsigned: true`"
        ))
    })?;
    if files.iter().filter(|file| file.name() == FILE).count() > 1 {
        return Err(refuse(format!("holds `{FILE}` more than once; build it again")));
    }
    let found: Signatures = serde_json::from_slice(&file.bytes)
        .map_err(|error| refuse(format!("`{FILE}` is malformed: {}; sign it again", super::without_place(&error))))?;
    if !matches!(found.plugin.as_str(), "" | "_default") {
        return Err(refuse("its signature was made by a signer of its own; sign it with plain `opa sign`".to_owned()));
    }
    let [token] = found.signatures.as_slice() else {
        return Err(refuse(format!("`{FILE}` holds {} signatures; sign it again with one", found.signatures.len())));
    };
    let claims = authentic(token, signing).map_err(refuse)?;
    in_force(&claims, signing, now).map_err(refuse)?;
    covers(&claims.files, files, folder, signing).map_err(refuse)
}

fn find(files: &[File]) -> Option<&File> {
    files.iter().find(|file| file.path.len() == 1 && file.name() == FILE)
}

/// The claims of a token that a configured key signed.
fn authentic(token: &str, signing: &Signing) -> Result<Claims, String> {
    let malformed = || "its signature is no JWT; sign it again".to_owned();
    let (message, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
    let (header, payload) = message.split_once('.').ok_or_else(malformed)?;
    let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed());
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| malformed())?;
    let payload = decode(payload)?;
    let claims: Claims = serde_json::from_slice(&payload).map_err(|error| {
        format!("its signature lists no files that we understand: {}; sign it again", super::without_place(&error))
    })?;
    let (id, key) = choose(signing, &header, &claims)?;
    let algorithm = algorithm(key.algorithm);
    if header.alg != format!("{algorithm:?}") {
        let text = "and the configuration says otherwise of this key; correct `algorithm` or sign it again";
        return Err(format!("its signature by key `{id}` is of algorithm `{}`, {text}", shown(&header.alg)));
    }
    let verified = crypto::verify(signature, message.as_bytes(), &load_key(id, key)?, algorithm).unwrap_or(false);
    if !verified {
        return Err(format!("its signature was not made by key `{id}`; it has been changed, or was signed by another"));
    }
    Ok(claims)
}

/// The key: as the configuration says, else as the signature says, else the only one.
fn choose<'a>(signing: &'a Signing, header: &Header, claims: &Claims) -> Result<(&'a str, &'a SigningKey), String> {
    let said = header.kid.as_deref().filter(|id| !id.is_empty()).or(Some(claims.keyid.as_str()).filter(|id| !id.is_empty()));
    let known = |id: &str| signing.keys.get_key_value(id).map(|(id, key)| (id.as_str(), key));
    match (signing.keyid.as_deref().or(said), signing.keys.first_key_value()) {
        (Some(id), _) => known(id).ok_or_else(|| {
            format!(
                "it is signed with key `{}`, which `policy.signing.keys` does not have; add it there or set `keyid`",
                shown(id)
            )
        }),
        (None, Some((id, key))) if signing.keys.len() == 1 => Ok((id, key)),
        (None, _) => Err("its signature names no key; set `policy.signing.keyid` to the one that made it".to_owned()),
    }
}

/// What the signer wrote, short enough for a log line.
fn shown(text: &str) -> String {
    text.chars().take(64).map(|char| if char.is_control() { '?' } else { char }).collect()
}

fn load_key(id: &str, key: &SigningKey) -> Result<DecodingKey, String> {
    let place = key.key_file.display();
    let bytes = fs::read(&key.key_file).map_err(|error| format!("the file of key `{id}`, `{place}`, cannot be read: {error}"))?;
    if bytes.windows(11).any(|text| text == b"PRIVATE KEY") {
        return Err(format!("the file of key `{id}`, `{place}`, holds a private key; give us the public one alone"));
    }
    let read = match key.algorithm {
        SigningAlgorithm::HS256 | SigningAlgorithm::HS384 | SigningAlgorithm::HS512 => {
            if bytes.trim_ascii().is_empty() {
                return Err(format!("the file of key `{id}`, `{place}`, is empty; write the secret into it"));
            }
            return Ok(DecodingKey::from_secret(&bytes));
        }
        SigningAlgorithm::ES256 | SigningAlgorithm::ES384 => DecodingKey::from_ec_pem(&bytes),
        SigningAlgorithm::EdDSA => DecodingKey::from_ed_pem(&bytes),
        _ => DecodingKey::from_rsa_pem(&bytes),
    };
    let wanted = key.algorithm;
    // The cause may quote the file, so it is not told.
    read.map_err(|_| format!("the file of key `{id}`, `{place}`, holds no public key for {wanted:?} in PEM; write one"))
}

const fn algorithm(algorithm: SigningAlgorithm) -> Algorithm {
    match algorithm {
        SigningAlgorithm::RS256 => Algorithm::RS256,
        SigningAlgorithm::RS384 => Algorithm::RS384,
        SigningAlgorithm::RS512 => Algorithm::RS512,
        SigningAlgorithm::PS256 => Algorithm::PS256,
        SigningAlgorithm::PS384 => Algorithm::PS384,
        SigningAlgorithm::PS512 => Algorithm::PS512,
        SigningAlgorithm::ES256 => Algorithm::ES256,
        SigningAlgorithm::ES384 => Algorithm::ES384,
        SigningAlgorithm::EdDSA => Algorithm::EdDSA,
        SigningAlgorithm::HS256 => Algorithm::HS256,
        SigningAlgorithm::HS384 => Algorithm::HS384,
        SigningAlgorithm::HS512 => Algorithm::HS512,
    }
}

fn in_force(claims: &Claims, signing: &Signing, now: Now) -> Result<(), String> {
    let scope = signing.scope.as_deref().unwrap_or_default();
    if claims.scope != scope {
        return Err(format!(
            "its signature is for scope `{}`, and `{scope}` is asked for here; sign it for that",
            shown(&claims.scope)
        ));
    }
    // Seconds may have a fraction (RFC 7519 §2), and a number that is none is no time that lies in the right direction.
    let seconds = |number: &Number| number.as_f64().filter(|seconds| seconds.is_finite());
    let now = now.seconds() as f64;
    if claims.exp.as_ref().is_some_and(|exp| seconds(exp).is_none_or(|exp| exp <= now)) {
        return Err("its signature has expired; sign it again".to_owned());
    }
    if claims.nbf.as_ref().is_some_and(|nbf| seconds(nbf).is_none_or(|nbf| nbf > now)) {
        return Err("its signature is not in force yet; is the clock right?".to_owned());
    }
    Ok(())
}

/// Each file is listed with its digest, and each listed one is there.
fn covers(listed: &[Listed], files: &[File], folder: Option<&Path>, signing: &Signing) -> Result<(), String> {
    let by_name: BTreeMap<_, _> = listed.iter().map(|listed| (listed.name.trim_start_matches('/'), listed)).collect();
    let excluded = |name: &str| signing.exclude.iter().any(|pattern| matches(pattern, name));
    let prefix = folder.map_or_else(String::new, |folder| prefix(folder, by_name.keys().copied()));
    let mut seen = 0;
    for file in files.iter().filter(|file| file.name() != FILE) {
        let inner = file.path.join("/");
        if inner == ".manifest" && file.bytes == super::Manifest::EMPTY && !by_name.contains_key(".manifest") {
            // What stands for a manifest that the archive does not have.
            continue;
        }
        let name = format!("{prefix}{inner}");
        let found = by_name.get(name.as_str());
        seen += usize::from(found.is_some());
        if excluded(&inner) {
            continue;
        }
        let Some(found) = found else {
            return Err(format!(
                "its signature does not cover `{inner}`; the file was added, or the bundle must be signed again"
            ));
        };
        let algorithm = digest::algorithm(&found.algorithm).ok_or_else(|| {
            format!("its signature digests `{inner}` by `{}`; sign it again, with SHA-256", shown(&found.algorithm))
        })?;
        let same = digest::digest(file, algorithm)
            .is_some_and(|digest| hex::decode(&found.hash).is_ok_and(|hash| hash == digest.as_ref()));
        if !same {
            return Err(format!("`{inner}` is not what was signed; it has been changed, or the bundle must be signed again"));
        }
    }
    if seen < by_name.len() {
        let there = |name: &&&str| files.iter().any(|file| format!("{prefix}{}", file.path.join("/")) == **name);
        let missing = by_name.keys().find(|name| !there(name) && !excluded(name.strip_prefix(prefix.as_str()).unwrap_or(name)));
        if let Some(name) = missing {
            return Err(format!(
                "`{}` was signed and is not there; it has been removed, or the bundle must be signed again",
                shown(name)
            ));
        }
    }
    Ok(())
}

/// `opa sign -b way/to/folder` names the files by that way. It is taken off when it is the end of ours, so that files
/// cannot be moved from one folder to another inside the bundle.
fn prefix<'a>(folder: &Path, mut names: impl Iterator<Item = &'a str> + Clone) -> String {
    let parts: Vec<_> = folder.components().filter_map(|part| part.as_os_str().to_str()).filter(|part| *part != "/").collect();
    let mut prefixes =
        (0..parts.len()).map(|from| format!("{}/", parts.iter().skip(from).copied().collect::<Vec<_>>().join("/")));
    let first = names.next().unwrap_or_default().to_owned();
    prefixes
        .find(|prefix| first.starts_with(prefix.as_str()) && names.clone().all(|name| name.starts_with(prefix.as_str())))
        .unwrap_or_default()
}

/// Whether `name` as a whole is of the form `pattern`: `*` and `?` stop at `/`.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<_>, Vec<_>) = (pattern.chars().collect(), name.chars().collect());
    // Which beginnings of `name` the pattern so far matches, so that time is bounded by the product of the two lengths.
    let mut reached = vec![false; name.len() + 1];
    if let Some(first) = reached.first_mut() {
        *first = true;
    }
    for part in pattern {
        let mut next = vec![false; name.len() + 1];
        let mut running = false;
        for (index, place) in next.iter_mut().enumerate() {
            let here = reached.get(index).copied().unwrap_or(false);
            let before = index.checked_sub(1).and_then(|index| Some((reached.get(index).copied()?, name.get(index).copied()?)));
            *place = match part {
                '*' => {
                    running = here || (running && before.is_some_and(|(_, char)| char != '/'));
                    running
                }
                '?' => before.is_some_and(|(reached, char)| reached && char != '/'),
                other => before.is_some_and(|(reached, char)| reached && char == other),
            };
        }
        reached = next;
    }
    reached.last().copied().unwrap_or(false)
}

#[cfg(test)]
mod tests;
