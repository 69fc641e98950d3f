//! A certificate authority for a trust domain, made with rcgen, which also makes the certificates no real one would.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// A self-signed authority.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A leaf with its key, in PEM.
pub struct Leaf {
    pub certificate: String,
    pub key: String,
}

impl Leaf {
    /// As Envoy sends it in `source.certificate`.
    pub fn url_encoded(&self) -> String {
        let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"*-._".contains(&byte);
        self.certificate
            .bytes()
            .map(|byte| if keep(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") })
            .collect()
    }

    /// Writes both into `folder`; returns the paths of certificate and key.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let paths = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        std::fs::write(&paths.0, &self.certificate).unwrap();
        std::fs::write(&paths.1, &self.key).unwrap();
        paths
    }
}

impl Ca {
    pub fn new(domain: &str) -> Self {
        let params = authority(domain, "authority");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// An authority that this one signed.
    pub fn intermediate(&self, domain: &str) -> Self {
        let params = authority(domain, "intermediate");
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// An X.509-SVID for a client and server.
    pub fn svid(&self, id: &str) -> Leaf {
        self.leaf(|params| params.subject_alt_names = vec![uri(id)])
    }

    /// A leaf that `change` has altered from a sound SVID without names.
    pub fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = named("workload");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let day = time::Duration::days(1);
        params.not_before = time::OffsetDateTime::now_utc() - day;
        params.not_after = time::OffsetDateTime::now_utc() + day;
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Leaf { certificate, key: key.serialize_pem() }
    }
}

fn authority(domain: &str, name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = named(&format!("{domain} {name}"));
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into().unwrap())];
    params.use_authority_key_identifier_extension = true;
    params
}

pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}
