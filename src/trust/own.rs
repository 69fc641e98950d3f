//! Our own SVID: certificate and key, replaced while connections are open. Each handshake takes the one that is current,
//! as server and as client. Where it comes from, and who it says we are, is left to others.

use std::{fmt, sync::Arc};

use arc_swap::{ArcSwapOption, Guard};
use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// A certificate chain with its key.
pub struct Svid {
    pub certified: Arc<CertifiedKey>,
    /// Chain and key in PEM, for clients that take no key in another form.
    pem: String,
}

impl Svid {
    /// # Errors
    /// When the key cannot be used, or is not the certificate's.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, rustls::Error> {
        let (label, der) = match &key {
            PrivateKeyDer::Pkcs1(der) => ("RSA PRIVATE KEY", der.secret_pkcs1_der()),
            PrivateKeyDer::Sec1(der) => ("EC PRIVATE KEY", der.secret_sec1_der()),
            PrivateKeyDer::Pkcs8(der) => ("PRIVATE KEY", der.secret_pkcs8_der()),
            _ => return Err(rustls::Error::General("unknown form of private key".to_owned())),
        };
        let certificates = chain.iter().map(|der| block("CERTIFICATE", der));
        let pem = certificates.chain([block(label, der)]).collect();
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?;
        Ok(Self { certified: Arc::new(certified), pem })
    }

    pub fn leaf(&self) -> Option<&CertificateDer<'static>> {
        self.certified.cert.first()
    }

    /// Holds the private key: for a client's identity, and for nothing that is kept or shown.
    pub fn pem(&self) -> &str {
        &self.pem
    }
}

fn block(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(der))
}

/// Says nothing of the key.
impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").field("certificates", &self.certified.cert.len()).finish_non_exhaustive()
    }
}

/// The one in force; none before the first, and after it was withdrawn.
#[derive(Debug, Default)]
pub struct OwnSvid {
    current: ArcSwapOption<Svid>,
}

impl OwnSvid {
    pub fn current(&self) -> Guard<Option<Arc<Svid>>> {
        self.current.load()
    }

    /// New handshakes use this one. Returns whether the certificate is another one.
    pub fn set(&self, svid: Svid) -> bool {
        let before = self.current.load_full();
        if before.as_ref().is_some_and(|before| before.certified.cert == svid.certified.cert) {
            return false;
        }
        self.current.store(Some(Arc::new(svid)));
        true
    }

    pub fn withdraw(&self) {
        self.current.store(None);
    }

    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        self.current.load().as_ref().map(|svid| Arc::clone(&svid.certified))
    }
}

impl ResolvesServerCert for OwnSvid {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }
}

impl ResolvesClientCert for OwnSvid {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }

    fn has_certs(&self) -> bool {
        self.current.load().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::testing::{Authority, Leaf};

    fn svid(leaf: &Leaf) -> Result<Svid, rustls::Error> {
        Svid::new(vec![leaf.der().clone()], PrivateKeyDer::try_from(leaf.key.serialize_der()).unwrap())
    }

    #[test]
    fn the_current_one_is_shown_and_no_key_is_told() {
        let root = Authority::new("root");
        let (first, second) = (root.svid("spiffe://td.test/a"), root.svid("spiffe://td.test/a"));
        let own = OwnSvid::default();
        assert!(own.certified().is_none() && !own.has_certs());
        assert!(own.set(svid(&first).unwrap()));
        assert!(!own.set(svid(&first).unwrap()), "the same again");
        assert!(own.set(svid(&second).unwrap()));
        assert_eq!(own.certified().unwrap().cert, [second.der().clone()]);
        assert_eq!(format!("{own:?}").matches("Svid { certificates: 1, .. }").count(), 1, "{own:?}");
        let pem = own.current().as_ref().unwrap().pem().to_owned();
        assert!(pem.contains("BEGIN CERTIFICATE") && pem.contains("BEGIN PRIVATE KEY"));
        own.withdraw();
        assert!(own.certified().is_none());

        let other = Leaf { certificate: first.certificate, key: second.key };
        assert!(svid(&other).is_err(), "the key of another");
    }
}
