//! The algorithms of RFC 7518 §3.1 and RFC 8037, and what they are called.

use aws_lc_rs::{
    hmac,
    signature::{self, EcdsaSigningAlgorithm, EcdsaVerificationAlgorithm, RsaParameters, RsaSignatureEncoding},
};

/// `none` is no algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Hs(Hash),
    Rs(Hash),
    Ps(Hash),
    Es(Hash),
    EdDsa,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    pub(super) fn named(name: &str) -> Option<Self> {
        if name == "EdDSA" {
            return Some(Self::EdDsa);
        }
        let (family, size) = name.split_at_checked(2)?;
        let hash = match size {
            "256" => Hash::Sha256,
            "384" => Hash::Sha384,
            "512" => Hash::Sha512,
            _ => return None,
        };
        match family {
            "HS" => Some(Self::Hs(hash)),
            "RS" => Some(Self::Rs(hash)),
            "PS" => Some(Self::Ps(hash)),
            "ES" => Some(Self::Es(hash)),
            _ => None,
        }
    }
}

impl Hash {
    pub(super) const fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }

    pub(super) const fn rsa(self) -> &'static RsaParameters {
        match self {
            Self::Sha256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Sha384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Sha512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        }
    }

    pub(super) const fn rsa_pss(self) -> &'static RsaParameters {
        match self {
            Self::Sha256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Sha384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Sha512 => &signature::RSA_PSS_2048_8192_SHA512,
        }
    }

    pub(super) const fn rsa_signing(self) -> &'static RsaSignatureEncoding {
        match self {
            Self::Sha256 => &signature::RSA_PKCS1_SHA256,
            Self::Sha384 => &signature::RSA_PKCS1_SHA384,
            Self::Sha512 => &signature::RSA_PKCS1_SHA512,
        }
    }

    pub(super) const fn rsa_pss_signing(self) -> &'static RsaSignatureEncoding {
        match self {
            Self::Sha256 => &signature::RSA_PSS_SHA256,
            Self::Sha384 => &signature::RSA_PSS_SHA384,
            Self::Sha512 => &signature::RSA_PSS_SHA512,
        }
    }

    /// RFC 7518 §3.4: each hash has its curve.
    pub(super) const fn ecdsa(self) -> &'static EcdsaVerificationAlgorithm {
        match self {
            Self::Sha256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::Sha384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::Sha512 => &signature::ECDSA_P521_SHA512_FIXED,
        }
    }

    pub(super) const fn ecdsa_signing(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::Sha256 => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            Self::Sha384 => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
            Self::Sha512 => &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
        }
    }

    /// Bytes of a coordinate of its curve.
    pub(super) const fn coordinate(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 66,
        }
    }
}
