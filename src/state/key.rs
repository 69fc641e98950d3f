//! The key that signs the control log: configured, or made beside the log for us alone to read.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};

use super::StateError;

/// Bytes of a signature, and of the name of a key.
pub(super) const SIGNATURE: usize = 64;
pub(super) const KEY_ID: usize = 8;

pub(super) struct SigningKey {
    pair: Ed25519KeyPair,
    /// The first bytes of the digest of the public key.
    pub(super) id: [u8; KEY_ID],
    /// Where it comes from.
    pub(super) path: PathBuf,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("id", &hex::encode(self.id)).finish_non_exhaustive()
    }
}

impl SigningKey {
    pub(super) fn read(path: &Path) -> Result<Self, StateError> {
        let pem = fs::read(path).map_err(|source| StateError::Io { path: path.to_owned(), source })?;
        let bad = || StateError::Key { path: path.to_owned() };
        let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| bad())?;
        Self::of(der.secret_pkcs8_der(), path).ok_or_else(bad)
    }

    /// A new key, and the PEM that it is kept as.
    pub(super) fn make(path: &Path) -> Result<(Self, String), StateError> {
        let document = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new())?;
        let text = BASE64_STANDARD.encode(document.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
        let key = Self::of(document.as_ref(), path).ok_or_else(|| StateError::Key { path: path.to_owned() })?;
        Ok((key, pem))
    }

    fn of(pkcs8: &[u8], path: &Path) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).ok()?;
        let digest = digest::digest(&digest::SHA256, pair.public_key().as_ref());
        let id = *digest.as_ref().first_chunk()?;
        Some(Self { pair, id, path: path.to_owned() })
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }

    pub(super) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.pair.public_key()).verify(message, signature).is_ok()
    }
}

/// Writes a new file that only we can read, on the disk when this returns.
pub(super) fn keep(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
