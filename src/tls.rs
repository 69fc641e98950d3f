//! TLS of our own listeners: certificate and key from PEM files, or our own SVID, replaced while connections are open. Who may connect
//! is left to the verifier that the listener brings.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    InconsistentKeys, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{NoServerSessionStorage, ResolvesServerCert, danger::ClientCertVerifier},
};

use crate::{
    config,
    trust::own::{OwnSvid, Svid},
};

/// Why a certificate and its key cannot be used. The ones in force stay in force. What was read is never quoted: a
/// key file may be among it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("TLS file `{file}` cannot be read; check the path and its permissions")]
    Read { file: PathBuf, source: io::Error },
    #[error("TLS file `{file}` is malformed; write PEM")]
    Pem { file: PathBuf },
    #[error("TLS file `{file}` holds no certificate; write ours first, then its intermediates")]
    NoCertificate { file: PathBuf },
    #[error("TLS file `{file}` holds no private key; write one in PKCS#8, PKCS#1 or SEC1 form, not encrypted")]
    NoKey { file: PathBuf },
    #[error("private key `{key}` does not belong to certificate `{certificate}`; replace both together")]
    Mismatch { certificate: PathBuf, key: PathBuf },
    #[error("certificate `{certificate}` or private key `{key}` is of a kind that cannot be used; use ECDSA, Ed25519 or RSA")]
    Unusable { certificate: PathBuf, key: PathBuf },
    #[error("this build offers no common version of TLS")]
    Versions { source: rustls::Error },
}

/// The TLS side of one listener.
#[derive(Debug)]
pub struct ServerTls {
    /// Where the certificate comes from; none when others see to it.
    files: Option<config::Tls>,
    shown: Arc<OwnSvid>,
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// Shows the certificate of `settings`; with `workload_api` that is `own`, and no handshake succeeds before there is
    /// one. With a verifier the handshake demands a client certificate, and fails without one.
    pub fn new(
        settings: &config::Shown,
        own: &Arc<OwnSvid>,
        verifier: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let files = settings.files().cloned();
        let shown = match &files {
            Some(files) => {
                let shown = OwnSvid::default();
                shown.set(load(files)?);
                Arc::new(shown)
            }
            None => Arc::clone(own),
        };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|source| TlsError::Versions { source })?;
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would not be verified again, and its caller could outlive its certificate or bundle.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { files, shown, config: Arc::new(config) })
    }

    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Reads the files again: new handshakes use what they hold now. Fails without changing anything. Returns whether
    /// the certificate is another one.
    pub fn reload(&self) -> Result<bool, TlsError> {
        self.files.as_ref().map_or(Ok(false), |files| Ok(self.shown.set(load(files)?)))
    }
}

/// Reads a certificate with its intermediates, and its key.
pub fn load(files: &config::Tls) -> Result<Svid, TlsError> {
    let chain = CertificateDer::pem_slice_iter(&read(&files.certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| TlsError::Pem { file: files.certificate.clone() })?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { file: files.certificate.clone() });
    }
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey { file: files.key.clone() },
        _ => TlsError::Pem { file: files.key.clone() },
    })?;
    Svid::new(chain, key).map_err(|error| {
        let (certificate, key) = (files.certificate.clone(), files.key.clone());
        match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::Mismatch { certificate, key },
            _ => TlsError::Unusable { certificate, key },
        }
    })
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(file).map_err(|source| TlsError::Read { file: file.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::trust::testing::Authority;

    struct Files {
        _folder: TempDir,
        settings: config::Tls,
    }

    impl Files {
        fn new(certificate: &str, key: &str) -> Self {
            let folder = TempDir::new().unwrap();
            let settings = config::Tls { certificate: folder.path().join("tls.crt"), key: folder.path().join("tls.key") };
            let files = Self { _folder: folder, settings };
            files.write(certificate, key);
            files
        }

        fn write(&self, certificate: &str, key: &str) {
            fs::write(&self.settings.certificate, certificate).unwrap();
            fs::write(&self.settings.key, key).unwrap();
        }
    }

    /// Certificate and key, in PEM.
    fn pair(root: &Authority) -> (String, String) {
        let leaf = root.svid("spiffe://td.test/doorward");
        (leaf.certificate.pem(), leaf.key.serialize_pem())
    }

    #[test]
    fn unusable_files_are_refused_by_name_and_never_quoted() {
        let root = Authority::new("root");
        let ((certificate, key), (_, other)) = (pair(&root), pair(&root));
        let one_line = key.replace('\n', " ");
        let table = [
            ("no certificate", "", key.as_str(), "tls.crt` holds no certificate"),
            ("key instead of certificate", &key, &key, "tls.crt` holds no certificate"),
            ("no key", &certificate, "", "tls.key` holds no private key"),
            ("certificate instead of key", &certificate, &certificate, "tls.key` holds no private key"),
            ("line ends lost", &certificate, &one_line, "tls.key` is malformed"),
            ("cut short", &certificate, "-----BEGIN PRIVATE KEY-----\nMIG", "tls.key` is malformed"),
            ("key of another", &certificate, &other, "does not belong to"),
            (
                "no key inside",
                &certificate,
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                "of a kind that cannot be used",
            ),
        ];
        for (name, certificate, text, expected) in table {
            let error = load(&Files::new(certificate, text).settings).unwrap_err();
            assert!(error.to_string().contains(expected), "{name}: {error}");
            assert!(!format!("{error:?}").contains("MIG") && !format!("{error:?}").contains("77, 73, 71"), "{name}: {error:?}");
        }
        let files = Files::new(&certificate, &key);
        fs::remove_file(&files.settings.key).unwrap();
        assert!(matches!(load(&files.settings), Err(TlsError::Read { .. })));
    }

    #[test]
    fn reload_replaces_a_pair_and_keeps_the_good_one() {
        let root = Authority::new("root");
        let ((first, key), (second, other)) = (pair(&root), pair(&root));
        let files = Files::new(&first, &key);
        let tls = ServerTls::new(&config::Shown::Files(files.settings.clone()), &Arc::default(), None).unwrap();
        let presented = || tls.shown.current().as_ref().unwrap().leaf().unwrap().clone();
        let before = presented();
        assert!(!tls.reload().unwrap());

        // Written one after the other: between the two nothing changes.
        files.write(&second, &key);
        assert!(matches!(tls.reload(), Err(TlsError::Mismatch { .. })));
        assert_eq!(presented(), before);
        files.write(&second, &other);
        assert!(tls.reload().unwrap());
        assert_ne!(presented(), before);
    }
}
