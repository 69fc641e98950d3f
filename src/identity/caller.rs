//! Who calls a TLS listener of ours, proved by client certificate: the same rules as for the peer of a call, with the
//! intermediates that the handshake brings. Which callers are let in is the listener's to say.

use std::{io, sync::Arc};

use super::{Peer, x509};
use crate::{
    clock::Now,
    trust::TrustStore,
    verdict::{Evidence, Reason},
};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

/// The workload that the certificates of a handshake, leaf first, prove at `now`.
pub fn peer(peer_certificates: &[CertificateDer<'_>], trust: &TrustStore, now: Now) -> Result<Peer, Reason> {
    let (leaf, intermediates) = peer_certificates.split_first().ok_or(Reason::NoUriSan)?;
    prove(leaf, intermediates, trust, now)
}

/// Our own word for the failure of a handshake, where it failed because `CallerVerifier` refused the certificate.
pub fn refusal(error: &io::Error) -> Option<Reason> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) => {
            cause.downcast_ref().map(|Refused(reason)| *reason)
        }
        _ => None,
    }
}

/// Lets a handshake go on only with a client certificate that is a valid SVID of a trusted domain.
#[derive(Debug)]
pub struct CallerVerifier {
    trust: Arc<TrustStore>,
    mandatory: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl CallerVerifier {
    pub fn new(trust: Arc<TrustStore>) -> Self {
        Self { trust, mandatory: true, algorithms: aws_lc_rs::default_provider().signature_verification_algorithms }
    }

    /// Lets those through, too, who show none.
    pub fn optional(trust: Arc<TrustStore>) -> Self {
        Self { mandatory: false, ..Self::new(trust) }
    }
}

impl ClientCertVerifier for CallerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    /// None: a workload has one SVID, and the list would tell strangers whom we trust.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match prove(end_entity, intermediates, &self.trust, Now::from_seconds(now.as_secs())) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(reason) => Err(CertificateError::Other(OtherError(Arc::new(Refused(reason)))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Carries our own word for the cause through rustls. The client is told only that its certificate will not do.
#[derive(Debug, thiserror::Error)]
#[error("client certificate refused: {0}")]
struct Refused(Reason);

fn prove(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], trust: &TrustStore, now: Now) -> Result<Peer, Reason> {
    let (id, x509) = x509::svid(leaf, false)?;
    x509.valid_at(now)?;
    trust.current().verify(id.trust_domain(), leaf, intermediates, now)?;
    Ok(Peer::new(id, Evidence::Sidecar, Some(x509)))
}

#[cfg(test)]
mod tests {
    use rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        pki_types::{PrivateKeyDer, ServerName},
    };
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::{
        clock, config,
        tls::ServerTls,
        trust::testing::{Authority, BundleFolder, Leaf, NOW, valid},
    };

    const ID: &str = "spiffe://td.test/envoy";

    /// The handshake reads the real clock, so these SVIDs are valid for long.
    fn long(authority: &Authority, id: &str) -> Leaf {
        authority.leaf(&[id], |params| valid(params, -400_000_000, 400_000_000))
    }

    #[test]
    fn certificates_are_judged_with_their_intermediates() {
        let root = Authority::new("root");
        let middle = root.intermediate("middle", |_| ());
        let folder = BundleFolder::new(&[("td.test", &[&root])]);
        let trust = TrustStore::load(&folder.settings).unwrap();
        let chain = |leaf: &Leaf| vec![leaf.der().clone(), middle.certificate.der().clone()];
        let table = [
            ("good", chain(&middle.svid(ID)), Ok(ID.parse().unwrap())),
            ("intermediate not sent", vec![middle.svid(ID).der().clone()], Err(Reason::UntrustedChain)),
            ("unknown domain", chain(&middle.svid("spiffe://unknown.test/a")), Err(Reason::UntrustedDomain)),
            ("two URI SANs", chain(&middle.leaf(&[ID, ID], |_| ())), Err(Reason::MultipleUriSans)),
            ("expired", chain(&middle.leaf(&[ID], |params| valid(params, -20, -10))), Err(Reason::SvidExpired)),
            ("an authority", vec![middle.certificate.der().clone()], Err(Reason::NoUriSan)),
            ("no DER", vec![CertificateDer::from(vec![0x30])], Err(Reason::CertificateMalformed)),
            ("nothing", vec![], Err(Reason::NoUriSan)),
        ];
        for (name, chain, expected) in table {
            assert_eq!(peer(&chain, &trust, NOW).map(|peer| peer.id), expected, "{name}");
        }
    }

    /// Shakes hands over a pipe; returns what the server then knows of the caller.
    async fn shake(
        server: Arc<ServerConfig>,
        root: &Authority,
        caller: Option<&Leaf>,
    ) -> io::Result<Vec<CertificateDer<'static>>> {
        let mut roots = RootCertStore::empty();
        roots.add(root.certificate.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut client = match caller {
            Some(leaf) => {
                let key = PrivateKeyDer::try_from(leaf.key.serialize_der()).unwrap();
                client.with_client_auth_cert(vec![leaf.der().clone()], key).unwrap()
            }
            None => client.with_no_client_auth(),
        };
        client.alpn_protocols = vec![b"h2".to_vec()];
        let (near, far) = tokio::io::duplex(64 * 1024);
        let name = ServerName::try_from("doorward.test").unwrap();
        let client = tokio::spawn(TlsConnector::from(Arc::new(client)).connect(name, far));
        let accepted = TlsAcceptor::from(server).accept(near).await;
        drop(client.await);
        let stream = accepted?;
        let (_, connection) = stream.get_ref();
        assert_eq!(connection.alpn_protocol(), Some(b"h2".as_slice()));
        Ok(connection.peer_certificates().unwrap_or_default().iter().map(|der| der.clone().into_owned()).collect())
    }

    #[tokio::test]
    async fn handshake_wants_a_caller_of_a_trusted_domain() {
        let (root, foreign) = (Authority::new("root"), Authority::new("foreign"));
        let mut folder = BundleFolder::new(&[("td.test", &[&root])]);
        let pair = config::Tls { certificate: folder.file("server"), key: folder.file("key") };
        let server = root.leaf(&[], |params| {
            valid(params, -400_000_000, 400_000_000);
            params.subject_alt_names = vec![rcgen::SanType::DnsName("doorward.test".try_into().unwrap())];
        });
        std::fs::write(&pair.certificate, server.certificate.pem()).unwrap();
        std::fs::write(&pair.key, server.key.serialize_pem()).unwrap();
        let files = config::Shown::Files(pair);

        let trust = Arc::new(TrustStore::load(&folder.settings).unwrap());
        let tls = ServerTls::new(&files, &Arc::default(), Some(Arc::new(CallerVerifier::new(Arc::clone(&trust))))).unwrap();
        let good = long(&root, ID);
        let seen = shake(tls.config(), &root, Some(&good)).await.unwrap();
        assert_eq!(peer(&seen, &trust, clock::now()).map(|peer| peer.id), Ok(ID.parse().unwrap()));

        let table = [
            ("unknown domain", Some(long(&root, "spiffe://unknown.test/envoy")), Some(Reason::UntrustedDomain)),
            ("other root", Some(long(&foreign, ID)), Some(Reason::UntrustedChain)),
            ("no SVID", Some(root.leaf(&[], |_| ())), Some(Reason::NoUriSan)),
            ("expired", Some(root.leaf(&[ID], |params| valid(params, -400_000_000, -399_000_000))), Some(Reason::SvidExpired)),
            ("no certificate", None, None),
        ];
        for (name, caller, expected) in table {
            let error = shake(tls.config(), &root, caller.as_ref()).await.unwrap_err();
            assert_eq!(refusal(&error), expected, "{name}: {error}");
        }

        // A connection that stays open is believed no longer than the bundle lasts, and no new one is made.
        folder.write("td.test", "");
        trust.reload(&folder.settings);
        assert_eq!(peer(&seen, &trust, clock::now()).map(|peer| peer.id), Err(Reason::UntrustedChain));
        assert!(shake(tls.config(), &root, Some(&good)).await.is_err());

        let open = ServerTls::new(&files, &Arc::default(), None).unwrap();
        assert_eq!(shake(open.config(), &root, None).await.unwrap(), vec![]);
    }
}
