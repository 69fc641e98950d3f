//! Trust bundles: which root certificates vouch for which trust domain, read from PEM files. Whether a leaf is an
//! X.509-SVID at all is judged in `identity`; here only its chain is.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::{ArcSwap, Guard};
use aws_lc_rs::digest;
use rustls_pki_types::{
    CertificateDer, TrustAnchor, UnixTime,
    pem::{PemObject, SectionKind},
};
use spiffe::TrustDomain;
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{clock::Now, config, verdict::Reason};

#[cfg(test)]
pub mod testing;

/// Why the bundles could not be read. The ones in force stay in force.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("trust bundle `{file}` of `{domain}` cannot be read; check the path and its permissions")]
    Read { domain: TrustDomain, file: PathBuf, source: io::Error },
    #[error("trust bundle `{file}` of `{domain}` is malformed at block {block}; write PEM, one block a root certificate")]
    Pem { domain: TrustDomain, file: PathBuf, block: usize },
    #[error(
        "trust bundle `{file}` of `{domain}` holds no certificate but is not empty; write PEM, or empty the file to trust nothing"
    )]
    NoCertificate { domain: TrustDomain, file: PathBuf },
    #[error("block {block} of trust bundle `{file}` of `{domain}` is no certificate; leave only certificates in it")]
    ForeignBlock { domain: TrustDomain, file: PathBuf, block: usize },
    #[error("certificate {block} of trust bundle `{file}` of `{domain}` cannot be parsed; write it again from its source")]
    Certificate { domain: TrustDomain, file: PathBuf, block: usize },
    #[error(
        "certificate {block} of trust bundle `{file}` of `{domain}` is no certificate authority; list the roots that sign, not what they signed"
    )]
    NotAuthority { domain: TrustDomain, file: PathBuf, block: usize },
}

/// The roots of every configured trust domain, as they were at one moment. Bundles of different trust domains are
/// never merged: the leaf's own trust domain picks the one that counts.
#[derive(Debug, Default)]
pub struct Bundles {
    domains: BTreeMap<TrustDomain, Bundle>,
    revision: Digest,
}

/// SHA-256.
type Digest = [u8; digest::SHA256_OUTPUT_LEN];

#[derive(Debug)]
struct Bundle {
    anchors: Vec<TrustAnchor<'static>>,
    contents: Digest,
}

impl Bundles {
    /// Reads the bundle file of each trust domain. A file with nothing in it is an empty bundle: it makes all SVIDs of
    /// the domain invalid, which is how a domain is revoked as a whole.
    pub fn load(settings: &config::Trust) -> Result<Self, TrustError> {
        let mut domains = BTreeMap::new();
        for (domain, source) in &settings.domains {
            domains.insert(domain.clone(), Bundle::load(domain, &source.bundle)?);
        }
        let revision = revision(&domains);
        Ok(Self { domains, revision })
    }

    /// SHA-256 over all names and contents: equal exactly when the same is trusted.
    pub fn revision(&self) -> &Digest {
        &self.revision
    }

    /// Checks that `leaf` was issued for client authentication by a chain that ends in a root of `domain`, with all of
    /// it valid at `now` (RFC 5280 §6). The validity of the root itself is not checked: a root is trusted for as long
    /// as it is in the bundle.
    pub fn verify(
        &self,
        domain: &TrustDomain,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: Now,
    ) -> Result<(), Reason> {
        let bundle = self.domains.get(domain).ok_or(Reason::UntrustedDomain)?;
        EndEntityCert::try_from(leaf)
            .and_then(|certificate| {
                certificate
                    .verify_for_usage(
                        webpki::ALL_VERIFICATION_ALGS,
                        &bundle.anchors,
                        intermediates,
                        UnixTime::since_unix_epoch(now.since_epoch()),
                        KeyUsage::client_auth(),
                        None,
                        Some(&only_signing_intermediates),
                    )
                    .map(drop)
            })
            .map_err(|error| reason(&error))
    }

    fn difference(&self, old: &Self) -> Reload {
        let missing_in = |from: &Self, other: &Self| -> Vec<TrustDomain> {
            from.domains.keys().filter(|domain| !other.domains.contains_key(domain)).cloned().collect()
        };
        let changed = self
            .domains
            .iter()
            .filter(|(domain, bundle)| old.domains.get(domain).is_some_and(|before| before.contents != bundle.contents))
            .map(|(domain, _)| domain.clone())
            .collect();
        Reload { added: missing_in(self, old), removed: missing_in(old, self), changed }
    }
}

impl Bundle {
    fn load(domain: &TrustDomain, file: &Path) -> Result<Self, TrustError> {
        let text = fs::read(file).map_err(|source| TrustError::Read { domain: domain.clone(), file: file.to_owned(), source })?;
        let mut anchors = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(&text) {
            let (domain, file, block) = (domain.clone(), file.to_owned(), anchors.len() + 1);
            match section {
                Ok((SectionKind::Certificate, der)) => match anchor(&CertificateDer::from(der)) {
                    Ok(anchor) => anchors.push(anchor),
                    Err(NotAnchor::Malformed) => return Err(TrustError::Certificate { domain, file, block }),
                    Err(NotAnchor::NotAuthority) => return Err(TrustError::NotAuthority { domain, file, block }),
                },
                Ok(_) => return Err(TrustError::ForeignBlock { domain, file, block }),
                Err(_) => return Err(TrustError::Pem { domain, file, block }),
            }
        }
        if anchors.is_empty() && !text.trim_ascii().is_empty() {
            return Err(TrustError::NoCertificate { domain: domain.clone(), file: file.to_owned() });
        }
        Ok(Self { anchors, contents: sha256(&text) })
    }
}

/// The bundles in force, replaced as a whole while they are in use.
#[derive(Debug, Default)]
pub struct TrustStore {
    current: ArcSwap<Bundles>,
}

/// What a reload changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reload {
    pub added: Vec<TrustDomain>,
    pub removed: Vec<TrustDomain>,
    pub changed: Vec<TrustDomain>,
}

impl Reload {
    /// True when the same is trusted as before.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

impl TrustStore {
    pub fn load(settings: &config::Trust) -> Result<Self, TrustError> {
        Ok(Self { current: ArcSwap::from_pointee(Bundles::load(settings)?) })
    }

    /// The bundles in force now. Take them once for a decision.
    pub fn current(&self) -> Guard<Arc<Bundles>> {
        self.current.load()
    }

    /// Reads all bundles again and puts them in force, or fails and leaves everything as it is.
    pub fn reload(&self, settings: &config::Trust) -> Result<Reload, TrustError> {
        let bundles = Bundles::load(settings)?;
        let old = self.current.swap(Arc::new(bundles));
        Ok(self.current.load().difference(&old))
    }
}

enum NotAnchor {
    Malformed,
    NotAuthority,
}

/// A root must be an authority (SPIFFE X.509-SVID §3.2): anything would do as a trust anchor for webpki, also a workload's
/// certificate that was put into the bundle by mistake and could then vouch for others.
fn anchor(der: &CertificateDer<'_>) -> Result<TrustAnchor<'static>, NotAnchor> {
    if !is_authority(der).ok_or(NotAnchor::Malformed)? {
        return Err(NotAnchor::NotAuthority);
    }
    webpki::anchor_from_trusted_cert(der).map(|anchor| anchor.to_owned()).map_err(|_| NotAnchor::Malformed)
}

/// Whether the certificate may sign others: `cA`, and `keyCertSign` where it has key usages. Nothing if it cannot be
/// parsed.
fn is_authority(der: &[u8]) -> Option<bool> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    let constraints = certificate.basic_constraints().ok()?;
    let usage = certificate.key_usage().ok()?;
    let authority = constraints.is_some_and(|it| it.value.ca) && usage.is_none_or(|it| it.value.key_cert_sign());
    rest.is_empty().then_some(authority)
}

/// webpki asks an intermediate for `cA` but not for `keyCertSign`, which SPIFFE X.509-SVID §4.3 demands.
fn only_signing_intermediates(path: &VerifiedPath<'_>) -> Result<(), webpki::Error> {
    match path.intermediate_certificates().all(|certificate| is_authority(&certificate.der()) == Some(true)) {
        true => Ok(()),
        false => Err(webpki::Error::EndEntityUsedAsCa),
    }
}

fn reason(error: &webpki::Error) -> Reason {
    use webpki::Error;
    match error {
        Error::CertExpired { .. } => Reason::SvidExpired,
        Error::CertNotValidYet { .. } => Reason::SvidNotYetValid,
        Error::CaUsedAsEndEntity => Reason::CaCertificate,
        Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => Reason::ExtendedKeyUsage,
        // A URI constraint is a violation whatever it says: webpki never matches one, so that it is refused.
        Error::NameConstraintViolation | Error::MalformedNameConstraint | Error::MaximumNameConstraintComparisonsExceeded => {
            Reason::NameConstraints
        }
        Error::BadDer
        | Error::BadDerTime
        | Error::TrailingData(_)
        | Error::MalformedExtensions
        | Error::ExtensionValueInvalid
        | Error::InvalidCertValidity
        | Error::InvalidSerialNumber
        | Error::UnsupportedCertVersion
        | Error::UnsupportedCriticalExtension => Reason::CertificateMalformed,
        _ => Reason::UntrustedChain,
    }
}

fn revision(domains: &BTreeMap<TrustDomain, Bundle>) -> Digest {
    // A trust domain name holds no zero byte and a digest has one length, so no two sets read the same.
    let mut all = Vec::new();
    for (domain, bundle) in domains {
        all.extend_from_slice(domain.as_str().as_bytes());
        all.push(0);
        all.extend_from_slice(&bundle.contents);
    }
    sha256(&all)
}

fn sha256(bytes: &[u8]) -> Digest {
    let mut sum = Digest::default();
    sum.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    sum
}

#[cfg(test)]
mod tests {
    use rcgen::{IsCa, KeyUsagePurpose};

    use super::{
        testing::{Authority, BundleFolder, NOW, name_constraint, valid},
        *,
    };

    fn td() -> TrustDomain {
        "td.test".parse().unwrap()
    }

    #[test]
    fn chain_is_checked_against_the_bundle_of_the_domain() {
        let (root, other) = (Authority::new("root"), Authority::new("other"));
        let middle = root.intermediate("middle", |_| ());
        let constrained = |subtrees, kind, base: &str| {
            root.intermediate("constrained", |params| params.custom_extensions = vec![name_constraint(subtrees, kind, base)])
        };
        let (permitted, excluded) = (constrained(0xa0, 0x86, "td.test"), constrained(0xa1, 0x86, "elsewhere.test"));
        let dns = constrained(0xa0, 0x82, "td.test");
        let no_sign = root.intermediate("no sign", |params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
        let no_ca = root.intermediate("no ca", |params| params.is_ca = IsCa::ExplicitNoCa);
        let old = root.intermediate("old", |params| valid(params, -9000, -8000));
        let folder = BundleFolder::new(&[("td.test", &[&other, &root]), ("other.test", &[&other]), ("empty.test", &[])]);
        let bundles = Bundles::load(&folder.settings).unwrap();

        let id = "spiffe://td.test/a";
        type Row<'a> = (&'a str, &'a str, &'a Authority, &'a [&'a Authority], Result<(), Reason>);
        let table: &[Row<'_>] = &[
            ("root", "td.test", &root, &[], Ok(())),
            ("through an intermediate", "td.test", &middle, &[&middle], Ok(())),
            ("intermediate not sent", "td.test", &middle, &[], Err(Reason::UntrustedChain)),
            ("bundle of another domain", "other.test", &root, &[], Err(Reason::UntrustedChain)),
            ("X-9 empty bundle", "empty.test", &root, &[], Err(Reason::UntrustedChain)),
            ("unknown domain", "unknown.test", &root, &[], Err(Reason::UntrustedDomain)),
            ("X-7 intermediate without keyCertSign", "td.test", &no_sign, &[&no_sign], Err(Reason::UntrustedChain)),
            ("X-7 intermediate that is no CA", "td.test", &no_ca, &[&no_ca], Err(Reason::UntrustedChain)),
            ("intermediate expired", "td.test", &old, &[&old], Err(Reason::SvidExpired)),
            ("X-11 permitted URI", "td.test", &permitted, &[&permitted], Err(Reason::NameConstraints)),
            ("X-11 excluded URI", "td.test", &excluded, &[&excluded], Err(Reason::NameConstraints)),
            ("DNS constraint does not concern a URI", "td.test", &dns, &[&dns], Ok(())),
        ];
        for (name, domain, issuer, sent, expected) in table {
            let sent: Vec<_> = sent.iter().map(|authority| authority.certificate.der().clone()).collect();
            let result = bundles.verify(&domain.parse().unwrap(), issuer.svid(id).der(), &sent, NOW);
            assert_eq!(result, *expected, "{name}");
        }
    }

    #[test]
    fn root_with_uri_constraint_is_of_no_use() {
        let root = Authority::with("root", |params| params.custom_extensions = vec![name_constraint(0xa0, 0x86, "td.test")]);
        let bundles = Bundles::load(&BundleFolder::new(&[("td.test", &[&root])]).settings).unwrap();
        let leaf = root.svid("spiffe://td.test/a");
        assert_eq!(bundles.verify(&td(), leaf.der(), &[], NOW), Err(Reason::NameConstraints));
    }

    #[test]
    fn bad_files_are_refused_by_name() {
        let root = Authority::new("root");
        let good = root.certificate.pem();
        let leaf = root.svid("spiffe://td.test/a").certificate.pem();
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let cut = good.replace("-----END CERTIFICATE-----", "");
        let table = [
            ("rubbish", "hello".to_owned(), "holds no certificate but is not empty"),
            ("DER rubbish", "\u{30}\u{1}".to_owned(), "holds no certificate but is not empty"),
            ("cut short", good.clone() + &cut, "malformed at block 2"),
            ("bad base64", good.replace("MII", "M*I"), "malformed at block 1"),
            ("bad DER", good.replace("MII", "AAA"), "certificate 1 of"),
            ("leaf", good.clone() + &leaf, "certificate 2 of"),
            ("private key", good.clone() + &key, "block 2 of"),
        ];
        for (name, text, expected) in table {
            let mut folder = BundleFolder::new(&[]);
            folder.write("td.test", &text);
            let error = Bundles::load(&folder.settings).unwrap_err().to_string();
            assert!(error.contains(expected), "{name}: {error}");
            assert!(error.contains("td.test.pem") && error.contains("`td.test`"), "{name}: {error}");
        }
        let folder = BundleFolder::new(&[("td.test", &[])]);
        fs::remove_file(folder.file("td.test")).unwrap();
        assert!(matches!(Bundles::load(&folder.settings), Err(TrustError::Read { .. })));
    }

    #[test]
    fn reload_says_what_changed_and_keeps_the_good_set() {
        let (root, next) = (Authority::new("root"), Authority::new("next"));
        let leaf = next.svid("spiffe://td.test/a");
        let mut folder = BundleFolder::new(&[("td.test", &[&root]), ("other.test", &[&root])]);
        let store = TrustStore::load(&folder.settings).unwrap();
        let first = *store.current().revision();
        assert!(store.reload(&folder.settings).unwrap().is_empty());
        assert_eq!(*store.current().revision(), first);

        folder.write("td.test", &(root.certificate.pem() + &next.certificate.pem()));
        folder.settings.domains.remove(&"other.test".parse().unwrap());
        folder.write("new.test", "\n");
        let expected = Reload {
            added: vec!["new.test".parse().unwrap()],
            removed: vec!["other.test".parse().unwrap()],
            changed: vec![td()],
        };
        assert_eq!(store.reload(&folder.settings).unwrap(), expected);
        let second = *store.current().revision();
        assert_ne!(second, first);
        assert_eq!(store.current().verify(&td(), leaf.der(), &[], NOW), Ok(()));

        folder.write("td.test", "half a file");
        assert!(store.reload(&folder.settings).is_err());
        assert_eq!(*store.current().revision(), second);
        assert_eq!(store.current().verify(&td(), leaf.der(), &[], NOW), Ok(()));
    }
}
