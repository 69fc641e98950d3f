//! Keys that verify tokens, from a certificate, a public key or JSON Web Keys. Each says by itself which algorithms it is
//! good for, so that no token can have a public key taken for a secret.

use aws_lc_rs::{
    hmac,
    signature::{ED25519, ParsedPublicKey, RsaPublicKeyComponents},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer, public_key::PublicKey, x509::SubjectPublicKeyInfo};

use super::{
    algorithm::{Algorithm, Hash},
    jwk,
};
use crate::policy::builtins::{Fault, pem, within};

/// Most keys of one set.
const MAX_KEYS: usize = 1_000;
/// Bits of the shortest RSA modulus that proves anything.
const RSA_BITS: usize = 2048;

const ED25519_OID: &str = "1.3.101.112";
const EC_CURVES: [(&str, Hash); 3] =
    [("1.2.840.10045.3.1.7", Hash::Sha256), ("1.3.132.0.34", Hash::Sha384), ("1.3.132.0.35", Hash::Sha512)];

pub(super) struct Key {
    /// The algorithm that the set gives it, where it gives one.
    pub(super) algorithm: Option<Algorithm>,
    /// Empty where it has none.
    pub(super) id: String,
    pub(super) material: Material,
    /// Whether it was given with its private part.
    pub(super) private: bool,
}

pub(super) enum Material {
    Secret(Vec<u8>),
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    Ec(Hash, ParsedPublicKey),
    Ed25519(ParsedPublicKey),
    /// A sound key that signs nothing.
    Other,
}

impl Key {
    /// Whether OPA might find that it verifies where we do not: RSA of too few bits.
    pub(super) fn is_too_weak(&self, algorithm: Algorithm) -> bool {
        match (algorithm, &self.material) {
            (Algorithm::Rs(_) | Algorithm::Ps(_), Material::Rsa(key)) => key.n.len() < RSA_BITS / 8,
            _ => false,
        }
    }

    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match (algorithm, &self.material) {
            (Algorithm::Hs(hash), Material::Secret(secret)) => {
                hmac::verify(&hmac::Key::new(hash.hmac(), secret), message, signature).is_ok()
            }
            (Algorithm::Rs(hash), Material::Rsa(key)) => key.verify(hash.rsa(), message, signature).is_ok(),
            (Algorithm::Ps(hash), Material::Rsa(key)) => key.verify(hash.rsa_pss(), message, signature).is_ok(),
            (Algorithm::Es(hash), Material::Ec(own, key)) if hash == *own => key.verify_sig(message, signature).is_ok(),
            (Algorithm::EdDsa, Material::Ed25519(key)) => key.verify_sig(message, signature).is_ok(),
            _ => false,
        }
    }
}

/// The keys of a text: one certificate or public key in PEM, a JSON Web Key, or a set of them.
pub(super) fn read(text: &str) -> Result<Vec<Key>, Fault> {
    let Some(block) = pem::next(text) else {
        let failed = |Fault(why)| Fault(format!("failed to parse a JWK key (set): {why}"));
        let keys = jwk::set(text).map_err(failed)?;
        within(keys.len() <= MAX_KEYS, "a JWK set has too many keys")?;
        let keys = keys.iter().map(jwk::verifying).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        return Ok(keys.into_iter().flatten().collect());
    };
    if !block.rest.is_empty() {
        return Err("extra data after a PEM certificate block".into());
    }
    let material = match block.label {
        "CERTIFICATE" => match X509Certificate::from_der(&block.bytes) {
            Ok(([], certificate)) => of_public_key(certificate.public_key())?,
            _ => return Err("failed to parse a PEM certificate".into()),
        },
        "PUBLIC KEY" => match SubjectPublicKeyInfo::from_der(&block.bytes) {
            Ok(([], key)) => of_public_key(&key)?,
            _ => return Err("failed to parse a PEM public key".into()),
        },
        _ => return Err("failed to extract a Key from the PEM certificate".into()),
    };
    Ok(vec![Key { algorithm: None, id: String::new(), material, private: false }])
}

fn of_public_key(key: &SubjectPublicKeyInfo<'_>) -> Result<Material, Fault> {
    if key.algorithm.algorithm.to_id_string() == ED25519_OID {
        return ed25519(&key.subject_public_key.data);
    }
    match key.parsed().map_err(|_| Fault::from("the public key is malformed"))? {
        PublicKey::RSA(key) => Ok(rsa(key.modulus, key.exponent)),
        PublicKey::EC(point) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok()).map(|oid| oid.to_id_string());
            let hash = EC_CURVES.iter().find(|(oid, _)| curve.as_deref() == Some(oid)).map(|(_, hash)| *hash);
            ec(hash.ok_or("unsupported elliptic curve")?, point.data())
        }
        _ => Ok(Material::Other),
    }
}

pub(super) fn rsa(modulus: &[u8], exponent: &[u8]) -> Material {
    let trimmed = |number: &[u8]| number.iter().copied().skip_while(|byte| *byte == 0).collect();
    Material::Rsa(RsaPublicKeyComponents { n: trimmed(modulus), e: trimmed(exponent) })
}

/// A point that is on the curve.
pub(super) fn ec(hash: Hash, point: &[u8]) -> Result<Material, Fault> {
    let key = ParsedPublicKey::new(hash.ecdsa(), point).map_err(|_| Fault::from("the point is not on the curve"))?;
    Ok(Material::Ec(hash, key))
}

pub(super) fn ed25519(point: &[u8]) -> Result<Material, Fault> {
    let key = ParsedPublicKey::new(&ED25519, point).map_err(|_| Fault::from("invalid Ed25519 public key"))?;
    Ok(Material::Ed25519(key))
}
