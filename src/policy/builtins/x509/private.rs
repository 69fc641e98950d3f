//! Private keys: read from PKCS #1, PKCS #8 and SEC 1, and shown as Go's JSON and as JSON Web Keys.

use aws_lc_rs::{
    encoding::{AsBigEndian, Curve25519SeedBin, EcPrivateKeyBin},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
    },
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use num_bigint::BigUint;
use serde_json::{Value as Json, json};
use x509_parser::asn1_rs::{Any, FromDer, Oid, Tag};

use super::certificate::{base64, integer, point_of, whole};
use crate::policy::builtins::{Fault, within};

/// Longest RSA key: one of 16,384 bits is shorter.
const MAX_RSA: usize = 16 << 10;

const RSA: &str = "1.2.840.113549.1.1.1";
const ED25519: &str = "1.3.101.112";
const CURVES: [(&str, &EcdsaSigningAlgorithm); 3] = [
    ("P-256", &ECDSA_P256_SHA256_FIXED_SIGNING),
    ("P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
    ("P-521", &ECDSA_P521_SHA512_FIXED_SIGNING),
];

pub(super) enum PrivateKey {
    Rsa(Box<RsaKey>),
    Ec { curve: &'static str, secret: Vec<u8>, point: Vec<u8> },
    Ed25519 { seed: Vec<u8>, public: Vec<u8> },
}

pub(super) struct RsaKey {
    n: BigUint,
    e: BigUint,
    d: BigUint,
    p: BigUint,
    q: BigUint,
}

impl PrivateKey {
    /// Of whichever form it is.
    pub(super) fn of_any(der: &[u8]) -> Result<Self, Fault> {
        Self::of_pkcs1(der)
            .or_else(|_| Self::of_pkcs8(der))
            .or_else(|_| Self::of_sec1(der))
            .map_err(|_| "tls: failed to parse private key".into())
    }

    /// RFC 8017 appendix A.1.2: version, n, e, d, p, q, and what follows from them.
    pub(super) fn of_pkcs1(der: &[u8]) -> Result<Self, Fault> {
        let malformed = || Fault::from("x509: failed to parse RSA private key");
        within(der.len() <= MAX_RSA, "the RSA key is too long")?;
        let parts = sequence(der).ok_or_else(malformed)?;
        let number = |part: &Any<'_>| (part.tag() == Tag::Integer).then(|| BigUint::from_bytes_be(part.data));
        let numbers: Option<Vec<BigUint>> = parts.iter().map(number).collect();
        let [version, n, e, d, p, q, ..] = <[BigUint; 9]>::try_from(numbers.ok_or_else(malformed)?).map_err(|_| malformed())?;
        let key = RsaKey { n, e, d, p, q };
        if version != BigUint::ZERO || !key.is_sound() {
            return Err("x509: invalid RSA private key".into());
        }
        Ok(Self::Rsa(Box::new(key)))
    }

    /// RFC 5958.
    pub(super) fn of_pkcs8(der: &[u8]) -> Result<Self, Fault> {
        let malformed = || Fault::from("x509: failed to parse private key");
        let parts = sequence(der).ok_or_else(malformed)?;
        let [_, algorithm, key, ..] = parts.as_slice() else { return Err(malformed()) };
        let (_, algorithm) = Oid::from_der(algorithm.data).map_err(|_| malformed())?;
        match algorithm.to_id_string().as_str() {
            RSA => Self::of_pkcs1(key.data),
            ED25519 => {
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| malformed())?;
                let seed = pair.seed().map_err(|_| malformed())?;
                let seed: Curve25519SeedBin<'_> = seed.as_be_bytes().map_err(|_| malformed())?;
                Ok(Self::Ed25519 { seed: seed.as_ref().to_vec(), public: pair.public_key().as_ref().to_vec() })
            }
            _ => Self::of_curve(|curve| EcdsaKeyPair::from_pkcs8(curve, der).ok()),
        }
    }

    /// RFC 5915.
    pub(super) fn of_sec1(der: &[u8]) -> Result<Self, Fault> {
        Self::of_curve(|curve| EcdsaKeyPair::from_private_key_der(curve, der).ok())
    }

    fn of_curve(read: impl Fn(&'static EcdsaSigningAlgorithm) -> Option<EcdsaKeyPair>) -> Result<Self, Fault> {
        let found = CURVES.into_iter().find_map(|(curve, algorithm)| Some((curve, read(algorithm)?)));
        let (curve, pair) = found.ok_or("x509: failed to parse EC private key")?;
        let secret: EcPrivateKeyBin<'_> =
            pair.private_key().as_be_bytes().map_err(|_| Fault::from("x509: failed to parse EC private key"))?;
        Ok(Self::Ec { curve, secret: secret.as_ref().to_vec(), point: pair.public_key().as_ref().to_vec() })
    }

    /// As Go shows its public part in a certificate.
    pub(super) fn public(&self) -> Json {
        match self {
            Self::Rsa(key) => json!({"E": whole(&key.e), "N": whole(&key.n)}),
            Self::Ec { point, .. } => point_of(point).unwrap_or(Json::Null),
            Self::Ed25519 { public, .. } => base64(public),
        }
    }

    pub(super) fn show(&self) -> Json {
        match self {
            Self::Rsa(key) => {
                let [dp, dq, qi] = key.derived();
                json!({
                    "D": whole(&key.d),
                    "E": whole(&key.e),
                    "N": whole(&key.n),
                    "Precomputed": {"CRTValues": [], "Dp": whole(&dp), "Dq": whole(&dq), "Qinv": whole(&qi)},
                    "Primes": [whole(&key.p), whole(&key.q)],
                })
            }
            Self::Ec { secret, .. } => {
                let mut shown = self.public();
                if let Json::Object(members) = &mut shown {
                    members.insert("D".to_owned(), integer(secret));
                }
                shown
            }
            Self::Ed25519 { seed, public } => base64(&[seed.as_slice(), public].concat()),
        }
    }

    pub(super) fn jwk(&self) -> Json {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Rsa(key) => {
                let number = |number: &BigUint| encode(&number.to_bytes_be());
                let [dp, dq, qi] = key.derived().map(|derived| number(&derived));
                json!({
                    "kty": "RSA", "n": number(&key.n), "e": number(&key.e), "d": number(&key.d),
                    "p": number(&key.p), "q": number(&key.q), "dp": dp, "dq": dq, "qi": qi,
                })
            }
            Self::Ec { curve, secret, point } => {
                let coordinates = point.strip_prefix(&[4]).unwrap_or_default();
                let (x, y) = coordinates.split_at_checked(coordinates.len() / 2).unwrap_or_default();
                json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y), "d": encode(secret)})
            }
            Self::Ed25519 { seed, public } => json!({"kty": "OKP", "crv": "Ed25519", "x": encode(public), "d": encode(seed)}),
        }
    }
}

impl RsaKey {
    /// Whether its numbers belong together.
    fn is_sound(&self) -> bool {
        let one = BigUint::from(1_u8);
        let inverts = |prime: &BigUint| *prime > one && (&self.d * &self.e) % (prime - &one) == one;
        self.n == &self.p * &self.q && inverts(&self.p) && inverts(&self.q)
    }

    /// What the Chinese remainder theorem needs: of a sound key alone.
    fn derived(&self) -> [BigUint; 3] {
        let one = BigUint::from(1_u8);
        let inverse = self.q.modinv(&self.p).unwrap_or_default();
        [&self.d % (&self.p - &one), &self.d % (&self.q - &one), inverse]
    }
}

/// The parts of a DER sequence, which is all there is.
fn sequence(der: &[u8]) -> Option<Vec<Any<'_>>> {
    let ([], whole) = Any::from_der(der).ok()? else { return None };
    let (mut parts, mut rest) = (Vec::new(), (whole.tag() == Tag::Sequence).then_some(whole.data)?);
    while !rest.is_empty() {
        let (after, part) = Any::from_der(rest).ok()?;
        parts.push(part);
        rest = after;
    }
    Some(parts)
}
