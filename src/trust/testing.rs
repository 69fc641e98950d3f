//! A certificate authority for tests: issues SVIDs of every good and bad shape, and keeps bundles in files.

use std::{path::PathBuf, time::Duration};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;

use crate::{clock::Now, config};

/// The moment at which tests look: 2026-11-22, in the middle of what `svid` issues.
pub const NOW: Now = Now::from_seconds(1795348800);

pub struct Authority {
    pub certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        Self::with(name, |_| ())
    }

    pub fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = authority(name, change);
        Self { certificate: params.self_signed(&key).unwrap(), issuer: Issuer::new(params, key) }
    }

    pub fn intermediate(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = authority(name, change);
        Self { certificate: params.signed_by(&key, &self.issuer).unwrap(), issuer: Issuer::new(params, key) }
    }

    /// A good SVID, valid for an hour around `NOW`.
    pub fn svid(&self, id: &str) -> Leaf {
        self.leaf(&[id], |_| ())
    }

    /// A leaf with these URI SANs, changed before it is signed.
    pub fn leaf(&self, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.serial_number = Some(SerialNumber::from_slice(&[0x00, 0xab, 0x01]));
        valid(&mut params, -1800, 1800);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Leaf { certificate: params.signed_by(&key, &self.issuer).unwrap(), key }
    }
}

pub struct Leaf {
    pub certificate: Certificate,
    pub key: KeyPair,
}

impl Leaf {
    pub fn der(&self) -> &CertificateDer<'static> {
        self.certificate.der()
    }

    /// The certificate as Envoy sends it: PEM with all but letters, digits and `*-._` percent-escaped.
    pub fn text(&self) -> String {
        escape(&self.certificate.pem())
    }
}

pub fn escape(pem: &str) -> String {
    const KEPT: AsciiSet = NON_ALPHANUMERIC.remove(b'*').remove(b'-').remove(b'.').remove(b'_');
    utf8_percent_encode(pem, &KEPT).to_string()
}

/// Sets the validity to `NOW` plus these seconds.
pub fn valid(params: &mut CertificateParams, from: i64, to: i64) {
    let at =
        |offset: i64| date_time_ymd(1970, 1, 1) + Duration::from_secs(NOW.seconds().saturating_add(offset).try_into().unwrap());
    (params.not_before, params.not_after) = (at(from), at(to));
}

/// Bundle files in a folder of their own, which goes with the value.
pub struct BundleFolder {
    folder: TempDir,
    pub settings: config::Trust,
}

impl BundleFolder {
    pub fn new(bundles: &[(&str, &[&Authority])]) -> Self {
        let mut all = Self { folder: TempDir::new().unwrap(), settings: config::Trust::default() };
        for (domain, roots) in bundles {
            all.write(domain, &roots.iter().map(|root| root.certificate.pem()).collect::<String>());
        }
        all
    }

    pub fn write(&mut self, domain: &str, text: &str) {
        let bundle = self.file(domain);
        std::fs::write(&bundle, text).unwrap();
        self.settings
            .domains
            .insert(domain.parse().unwrap(), config::Domain { source: config::BundleSource::File(bundle), backdate: None });
    }

    pub fn file(&self, domain: &str) -> PathBuf {
        self.folder.path().join(format!("{domain}.pem"))
    }
}

/// The extension NameConstraints (RFC 5280 §4.2.1.10) with one permitted (`0xa0`) or excluded (`0xa1`) subtree of the
/// general name `kind` (`0x86` URI, `0x82` DNS), which rcgen cannot write for URIs.
pub fn name_constraint(subtrees: u8, kind: u8, base: &str) -> CustomExtension {
    let mut der = base.as_bytes().to_vec();
    for tag in [kind, 0x30, subtrees, 0x30] {
        der.splice(0..0, [tag, der.len().try_into().unwrap()]);
    }
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], der);
    extension.set_criticality(true);
    extension
}

fn authority(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut params, -86_400, 86_400);
    change(&mut params);
    params
}
