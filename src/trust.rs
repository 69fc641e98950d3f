//! Trust bundles: what vouches for which trust domain, from files and from the Workload API. Whether a leaf is an X.509-SVID at all is judged
//! in `identity`; here only its chain is.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::{ArcSwap, Guard};
use rustls_pki_types::{CertificateDer, UnixTime};
use spiffe::TrustDomain;
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use self::{
    bundle::{Bundle, BundleError, Digest, Jwk, is_authority, sha256},
    workload::Roots,
};
use crate::{
    clock::Now,
    config::{self, BundleSource},
    verdict::Reason,
};

mod bundle;
pub mod own;
#[cfg(test)]
pub mod testing;
pub mod workload;

/// Why a bundle could not be read. The one in force stays in force.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("trust bundle `{file}` of `{domain}` cannot be read; check the path and its permissions")]
    Read { domain: TrustDomain, file: PathBuf, source: io::Error },
    #[error("trust bundle `{file}` of `{domain}` {error}")]
    Bundle { domain: TrustDomain, file: PathBuf, error: BundleError },
    #[error(
        "trust bundle `{file}` of `{domain}` has `spiffe_sequence` {found}, and {known} was in force; fetch the newest from its source"
    )]
    Older { domain: TrustDomain, file: PathBuf, found: u64, known: u64 },
}

/// What vouches for every configured trust domain, as it was at one moment. Bundles of different trust domains are
/// never merged: the leaf's own trust domain picks the one that counts.
#[derive(Debug, Default)]
pub struct Bundles {
    domains: BTreeMap<TrustDomain, Arc<Bundle>>,
    revision: Digest,
}

impl Bundles {
    fn new(domains: BTreeMap<TrustDomain, Arc<Bundle>>) -> Self {
        let revision = revision(&domains);
        Self { domains, revision }
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
        if let Some(reason) = bundle.withheld {
            return Err(reason);
        }
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

    /// The keys of `domain` that sign JWT-SVIDs; none where the domain is not trusted.
    pub fn jwt_keys(&self, domain: &TrustDomain) -> Option<&Arc<[Jwk]>> {
        self.domains.get(domain).map(|bundle| &bundle.jwt_keys)
    }

    pub fn domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.domains.keys()
    }

    /// Each domain with the number of its roots and JWT keys.
    pub fn counts(&self) -> impl Iterator<Item = (&TrustDomain, usize, usize)> {
        let keys = |domain| self.jwt_keys(domain).map_or(0, |keys| keys.len());
        self.domains.iter().map(move |(domain, bundle)| (domain, bundle.anchors.len(), keys(domain)))
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
        Reload { added: missing_in(self, old), removed: missing_in(old, self), changed, refused: Vec::new() }
    }
}

/// The bundles in force, replaced as a whole while they are in use.
#[derive(Debug, Default)]
pub struct TrustStore {
    current: ArcSwap<Bundles>,
    parts: Mutex<Parts>,
}

/// What the bundles in force are made of.
#[derive(Debug, Default)]
struct Parts {
    sources: BTreeMap<TrustDomain, BundleSource>,
    files: BTreeMap<TrustDomain, Arc<Bundle>>,
    /// What the Workload API said last; none before it has said anything, and after that was withdrawn.
    x509: Option<BTreeMap<TrustDomain, Roots>>,
    /// Why that does not count.
    x509_withheld: Option<Reason>,
    jwt: BTreeMap<TrustDomain, Arc<[Jwk]>>,
    jwt_withheld: bool,
}

/// What a reload changed.
#[derive(Debug, Default)]
pub struct Reload {
    pub added: Vec<TrustDomain>,
    pub removed: Vec<TrustDomain>,
    pub changed: Vec<TrustDomain>,
    /// Bundles that could not be read: what was in force of their domains stays.
    pub refused: Vec<TrustError>,
}

impl Reload {
    /// True when the same is trusted as before.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

impl TrustStore {
    /// Reads the bundle of each trust domain, all of which must be good.
    pub fn load(settings: &config::Trust) -> Result<Self, TrustError> {
        let store = Self::default();
        match store.reload(settings).refused.pop() {
            Some(error) => Err(error),
            None => Ok(store),
        }
    }

    /// The bundles in force now. Take them once for a decision.
    pub fn current(&self) -> Guard<Arc<Bundles>> {
        self.current.load()
    }

    /// Reads all files again and puts those in force that are good. A bad one holds up no other: what another domain
    /// has withdrawn is withdrawn.
    pub fn reload(&self, settings: &config::Trust) -> Reload {
        let (mut files, mut refused) = (BTreeMap::new(), Vec::new());
        let mut parts = self.parts();
        for (domain, config::Domain { source, .. }) in &settings.domains {
            let BundleSource::File(file) = source else { continue };
            let known = parts.files.get(domain);
            match load(domain, file).and_then(|new| newer(domain, file, new, known)) {
                Ok(bundle) => drop(files.insert(domain.clone(), Arc::new(bundle))),
                Err(error) => {
                    refused.push(error);
                    files.extend(known.map(|known| (domain.clone(), Arc::clone(known))));
                }
            }
        }
        parts.files = files;
        parts.sources = settings.domains.iter().map(|(domain, settings)| (domain.clone(), settings.source.clone())).collect();
        Reload { refused, ..self.put(&parts) }
    }

    /// Puts in force what the Workload API says of X.509-SVIDs.
    fn put_x509(&self, bundles: BTreeMap<TrustDomain, Roots>) {
        self.alter(|parts| (parts.x509, parts.x509_withheld) = (Some(bundles), None));
    }

    /// Forgets it, for `reason`.
    fn withdraw_x509(&self, reason: Reason) {
        self.alter(|parts| (parts.x509, parts.x509_withheld) = (None, Some(reason)));
    }

    /// Lets it count or not, without forgetting it.
    fn withhold_x509(&self, reason: Option<Reason>) {
        self.alter(|parts| parts.x509_withheld = reason);
    }

    fn put_jwt(&self, keys: BTreeMap<TrustDomain, Arc<[Jwk]>>) {
        self.alter(|parts| (parts.jwt, parts.jwt_withheld) = (keys, false));
    }

    fn withdraw_jwt(&self) {
        self.alter(|parts| parts.jwt.clear());
    }

    fn withhold_jwt(&self, withheld: bool) {
        self.alter(|parts| parts.jwt_withheld = withheld);
    }

    fn alter(&self, alter: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts();
        alter(&mut parts);
        let change = self.put(&parts);
        if !change.is_empty() {
            tracing::info!(changed = names(&change.changed), "brought what the Workload API says into force");
        }
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The caller holds the parts, so that what is put together last is what counts.
    fn put(&self, parts: &Parts) -> Reload {
        let new = Bundles::new(parts.bundles());
        let change = new.difference(&self.current.load());
        if !change.is_empty() {
            self.current.store(Arc::new(new));
        }
        change
    }
}

impl Parts {
    fn bundles(&self) -> BTreeMap<TrustDomain, Arc<Bundle>> {
        let bundle = |(domain, source): (&TrustDomain, &BundleSource)| match source {
            BundleSource::File(_) => self.files.get(domain).map(Arc::clone),
            BundleSource::WorkloadApi => Some(Arc::new(self.of_workload_api(domain))),
        };
        self.sources.iter().filter_map(|part| Some((part.0.clone(), bundle(part)?))).collect()
    }

    /// A domain that the last message does not name has been withdrawn.
    fn of_workload_api(&self, domain: &TrustDomain) -> Bundle {
        let roots = self.x509.as_ref().and_then(|bundles| bundles.get(domain));
        let withheld = self.x509_withheld.or(roots.is_none().then_some(Reason::TrustUnavailable));
        let roots = roots.filter(|_| withheld.is_none()).cloned().unwrap_or_default();
        let jwt_keys = self.jwt.get(domain).filter(|_| !self.jwt_withheld).cloned().unwrap_or_default();
        let mut contents = roots.contents.to_vec();
        contents.extend_from_slice(withheld.map_or("", Reason::as_str).as_bytes());
        contents.extend(jwt_keys.iter().flat_map(|key| serde_json::to_vec(key).unwrap_or_default()));
        Bundle { anchors: roots.anchors, jwt_keys, sequence: None, withheld, contents: sha256(&contents) }
    }
}

/// Trust domains as a log line shows them.
pub fn names(domains: &[TrustDomain]) -> String {
    domains.iter().map(TrustDomain::as_str).collect::<Vec<_>>().join(", ")
}

fn load(domain: &TrustDomain, file: &Path) -> Result<Bundle, TrustError> {
    let text = fs::read(file).map_err(|source| TrustError::Read { domain: domain.clone(), file: file.to_owned(), source })?;
    Bundle::read(&text).map_err(|error| TrustError::Bundle { domain: domain.clone(), file: file.to_owned(), error })
}

/// `new`, unless it says itself that it is older than the one in force (SPIFFE Trust Domain and Bundle §4.1.1).
fn newer(domain: &TrustDomain, file: &Path, new: Bundle, known: Option<&Arc<Bundle>>) -> Result<Bundle, TrustError> {
    match (new.sequence, known.and_then(|known| known.sequence)) {
        (Some(found), Some(known)) if found < known => {
            Err(TrustError::Older { domain: domain.clone(), file: file.to_owned(), found, known })
        }
        _ => Ok(new),
    }
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

fn revision(domains: &BTreeMap<TrustDomain, Arc<Bundle>>) -> Digest {
    // A trust domain name holds no zero byte and a digest has one length, so no two sets read the same.
    let mut all = Vec::new();
    for (domain, bundle) in domains {
        all.extend_from_slice(domain.as_str().as_bytes());
        all.push(0);
        all.extend_from_slice(&bundle.contents);
    }
    sha256(&all)
}

#[cfg(test)]
mod tests {
    use base64::{Engine, prelude::BASE64_STANDARD};
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
        let store = TrustStore::load(&folder.settings).unwrap();
        let bundles = store.current();

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
        let store = TrustStore::load(&BundleFolder::new(&[("td.test", &[&root])]).settings).unwrap();
        let bundles = store.current();
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
            ("bad DER", good.replace("MII", "AAA"), "certificate 1 that cannot be parsed"),
            ("leaf", good.clone() + &leaf, "certificate 2 that is no certificate authority"),
            ("private key", good.clone() + &key, "block 2 that is no certificate"),
        ];
        for (name, text, expected) in table {
            let mut folder = BundleFolder::new(&[]);
            folder.write("td.test", &text);
            let error = TrustStore::load(&folder.settings).unwrap_err().to_string();
            assert!(error.contains(expected), "{name}: {error}");
            assert!(error.contains("td.test.pem") && error.contains("`td.test`"), "{name}: {error}");
        }
        let folder = BundleFolder::new(&[("td.test", &[])]);
        fs::remove_file(folder.file("td.test")).unwrap();
        assert!(matches!(TrustStore::load(&folder.settings), Err(TrustError::Read { .. })));
    }

    #[test]
    fn reload_says_what_changed_and_keeps_what_was_good() {
        let (root, next) = (Authority::new("root"), Authority::new("next"));
        let leaf = next.svid("spiffe://td.test/a");
        let mut folder = BundleFolder::new(&[("td.test", &[&root]), ("other.test", &[&root]), ("third.test", &[&root])]);
        let store = TrustStore::load(&folder.settings).unwrap();
        let first = *store.current().revision();
        let change = store.reload(&folder.settings);
        assert!(change.is_empty() && change.refused.is_empty());
        assert_eq!(*store.current().revision(), first);

        folder.write("td.test", &(root.certificate.pem() + &next.certificate.pem()));
        folder.settings.domains.remove(&"other.test".parse().unwrap());
        folder.write("new.test", "\n");
        let change = store.reload(&folder.settings);
        assert_eq!(change.added, ["new.test".parse().unwrap()]);
        assert_eq!(change.removed, ["other.test".parse().unwrap()]);
        assert_eq!(change.changed, [td()]);
        let second = *store.current().revision();
        assert_ne!(second, first);
        assert_eq!(store.current().verify(&td(), leaf.der(), &[], NOW), Ok(()));

        // A bad file keeps what its own domain had, and holds up no other.
        folder.write("td.test", "half a file");
        folder.write("third.test", "");
        let change = store.reload(&folder.settings);
        assert_eq!((change.refused.len(), change.changed.as_slice()), (1, ["third.test".parse().unwrap()].as_slice()));
        assert_eq!(store.current().verify(&td(), leaf.der(), &[], NOW), Ok(()));
        let third = root.svid("spiffe://third.test/a");
        let result = store.current().verify(&"third.test".parse().unwrap(), third.der(), &[], NOW);
        assert_eq!(result, Err(Reason::UntrustedChain));
    }

    #[test]
    fn a_spiffe_bundle_never_goes_back() {
        let root = Authority::new("root");
        let x5c = BASE64_STANDARD.encode(root.certificate.der());
        let text = |sequence: &str, kid: &str| {
            format!(
                r#"{{"keys": [{{"use": "x509-svid", "kty": "EC", "x5c": ["{x5c}"]}},
                   {{"use": "jwt-svid", "kty": "EC", "kid": "{kid}"}}]{sequence}}}"#
            )
        };
        let mut folder = BundleFolder::new(&[]);
        folder.write("td.test", &text(r#", "spiffe_sequence": 5"#, "a"));
        let store = TrustStore::load(&folder.settings).unwrap();
        let kid = || store.current().jwt_keys(&td()).unwrap()[0]["kid"].as_str().unwrap().to_owned();
        assert_eq!(store.current().verify(&td(), root.svid("spiffe://td.test/a").der(), &[], NOW), Ok(()));
        assert!(store.current().jwt_keys(&"other.test".parse().unwrap()).is_none());
        for (sequence, name, expected, refused) in [
            (r#", "spiffe_sequence": 4"#, "b", "a", true),
            (r#", "spiffe_sequence": 5"#, "c", "c", false),
            (r#", "spiffe_sequence": 18446744073709551615"#, "d", "d", false),
            (r#", "spiffe_sequence": 6"#, "e", "d", true),
            ("", "f", "f", false),
        ] {
            folder.write("td.test", &text(sequence, name));
            let change = store.reload(&folder.settings);
            assert_eq!((kid().as_str(), change.refused.len()), (expected, usize::from(refused)), "{name}");
        }
        folder.write("td.test", &root.certificate.pem());
        store.reload(&folder.settings);
        assert_eq!(store.current().counts().collect::<Vec<_>>(), [(&td(), 1, 0)]);
    }
}
