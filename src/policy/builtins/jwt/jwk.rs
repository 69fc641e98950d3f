//! JSON Web Keys (RFC 7517, RFC 7518 §6, RFC 8037): those that verify, and one that signs.

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::KeyPairComponents,
    signature::{EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair, RsaPublicKeyComponents},
};
use serde_json::Value as Json;

use super::{
    algorithm::{Algorithm, Hash},
    key::{self, Key, Material},
};
use crate::policy::builtins::{Fault, pem};

/// Algorithms that a key may name and that are no concern of ours: a set may hold such keys, and they verify nothing.
const OTHERS: [&str; 21] = [
    "none",
    "ES256K",
    "RSA1_5",
    "RSA-OAEP",
    "RSA-OAEP-256",
    "RSA-OAEP-384",
    "RSA-OAEP-512",
    "A128KW",
    "A192KW",
    "A256KW",
    "dir",
    "ECDH-ES",
    "ECDH-ES+A128KW",
    "ECDH-ES+A192KW",
    "ECDH-ES+A256KW",
    "A128GCMKW",
    "A192GCMKW",
    "A256GCMKW",
    "PBES2-HS256+A128KW",
    "PBES2-HS384+A192KW",
    "PBES2-HS512+A256KW",
];

/// The keys of a set, or the one key that the text is.
pub(super) fn set(text: &str) -> Result<Vec<Json>, Fault> {
    let value: Json = serde_json::from_str(text).map_err(|error| Fault(format!("invalid JSON: {error}")))?;
    match value {
        Json::Object(mut members) => match members.remove("keys") {
            Some(Json::Array(keys)) => Ok(keys),
            Some(_) => Err("`keys` is no list".into()),
            None => Ok(vec![Json::Object(members)]),
        },
        _ => Err("neither a key nor a set of keys".into()),
    }
}

/// None for a key of an algorithm that verifies no token.
pub(super) fn verifying(jwk: &Json) -> Result<Option<Key>, Fault> {
    let kind = text(jwk, "kty")?.ok_or("a key without `kty`")?;
    let id = text(jwk, "kid")?.unwrap_or_default().to_owned();
    let named = text(jwk, "alg")?;
    let algorithm = named.and_then(Algorithm::named);
    if let Some(name) = named.filter(|_| algorithm.is_none())
        && !OTHERS.contains(&name)
    {
        return Err(Fault(format!("unknown key algorithm {name:?}")));
    }
    let material = match kind {
        "oct" => Material::Secret(bytes(jwk, "k")?),
        "RSA" => key::rsa(&bytes(jwk, "n")?, &bytes(jwk, "e")?),
        "EC" => {
            let hash = curve(jwk)?;
            key::ec(hash, &point(jwk, hash)?)?
        }
        "OKP" => match text(jwk, "crv")? {
            Some("Ed25519") => key::ed25519(&bytes(jwk, "x")?)?,
            Some("X25519") => Material::Other,
            _ => return Err("unsupported curve".into()),
        },
        _ => return Err(Fault(format!("unknown key type {kind:?}"))),
    };
    let private = text(jwk, "d")?.is_some();
    Ok((named.is_none() || algorithm.is_some()).then_some(Key { algorithm, id, material, private }))
}

/// Signs with a private key or a secret. It has to be made for the algorithm.
pub(super) fn sign(jwk: &Json, algorithm: Algorithm, message: &[u8]) -> Result<Vec<u8>, Fault> {
    let kind = text(jwk, "kty")?.ok_or("a key without `kty`")?;
    let random = SystemRandom::new();
    let refused = |_| Fault::from("the key cannot sign");
    let failed = |_| Fault::from("signing failed");
    match (algorithm, kind) {
        (Algorithm::Hs(hash), "oct") => {
            let secret = hmac::Key::new(hash.hmac(), &bytes(jwk, "k")?);
            Ok(hmac::sign(&secret, message).as_ref().to_vec())
        }
        (Algorithm::Rs(_) | Algorithm::Ps(_), "RSA") => {
            let key = rsa_pair(jwk)?;
            let encoding = match algorithm {
                Algorithm::Ps(hash) => hash.rsa_pss_signing(),
                Algorithm::Rs(hash) | Algorithm::Hs(hash) | Algorithm::Es(hash) => hash.rsa_signing(),
                Algorithm::EdDsa => return Err("the key is not for this algorithm".into()),
            };
            let mut signature = vec![0; key.public_modulus_len()];
            key.sign(encoding, &random, message, &mut signature).map_err(failed)?;
            Ok(signature)
        }
        (Algorithm::Es(hash), "EC") if curve(jwk)? == hash => {
            let secret = padded(bytes(jwk, "d")?, hash.coordinate())?;
            let key = EcdsaKeyPair::from_private_key_and_public_key(hash.ecdsa_signing(), &secret, &point(jwk, hash)?);
            Ok(key.map_err(refused)?.sign(&random, message).map_err(failed)?.as_ref().to_vec())
        }
        // OPA would sign, with what RFC 7518 §3 has not.
        (Algorithm::Es(_), "EC") | (Algorithm::Hs(_), "OKP") => Err(Fault::limit("the key is not for this algorithm")),
        (Algorithm::EdDsa, "OKP") if text(jwk, "crv")? == Some("Ed25519") => {
            let key = Ed25519KeyPair::from_seed_and_public_key(&bytes(jwk, "d")?, &bytes(jwk, "x")?).map_err(refused)?;
            Ok(key.sign(message).as_ref().to_vec())
        }
        _ => Err("the key is not for this algorithm".into()),
    }
}

fn rsa_pair(jwk: &Json) -> Result<RsaKeyPair, Fault> {
    let trimmed = |name| bytes(jwk, name).map(|number| number.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<_>>());
    let components = KeyPairComponents {
        public_key: RsaPublicKeyComponents { n: trimmed("n")?, e: trimmed("e")? },
        d: bytes(jwk, "d")?,
        p: bytes(jwk, "p")?,
        q: bytes(jwk, "q")?,
        dP: bytes(jwk, "dp")?,
        dQ: bytes(jwk, "dq")?,
        qInv: bytes(jwk, "qi")?,
    };
    RsaKeyPair::from_components(&components).map_err(|_| Fault::limit("an RSA key signs with 2048 to 8192 bits"))
}

/// A curve, by the hash that goes with it.
fn curve(jwk: &Json) -> Result<Hash, Fault> {
    match text(jwk, "crv")? {
        Some("P-256") => Ok(Hash::Sha256),
        Some("P-384") => Ok(Hash::Sha384),
        Some("P-521") => Ok(Hash::Sha512),
        _ => Err("unsupported curve".into()),
    }
}

/// SEC 1 §2.3.3, uncompressed.
fn point(jwk: &Json, hash: Hash) -> Result<Vec<u8>, Fault> {
    let size = hash.coordinate();
    let (x, y) = (padded(bytes(jwk, "x")?, size)?, padded(bytes(jwk, "y")?, size)?);
    Ok([&[4][..], &x, &y].concat())
}

fn padded(number: Vec<u8>, size: usize) -> Result<Vec<u8>, Fault> {
    let missing = size.checked_sub(number.len()).ok_or("a number is too long for the curve")?;
    Ok([vec![0; missing], number].concat())
}

fn text<'a>(jwk: &'a Json, name: &str) -> Result<Option<&'a str>, Fault> {
    match jwk.get(name) {
        None => Ok(None),
        Some(Json::String(text)) => Ok(Some(text)),
        Some(_) => Err(Fault(format!("`{name}` is no string"))),
    }
}

/// A member that has to be there, in either alphabet.
fn bytes(jwk: &Json, name: &str) -> Result<Vec<u8>, Fault> {
    let text = text(jwk, name)?.filter(|text| !text.is_empty()).ok_or_else(|| Fault(format!("a key without `{name}`")))?;
    pem::base64url(&text.replace('+', "-").replace('/', "_")).map_err(|_| Fault(format!("`{name}` is no Base64")))
}
