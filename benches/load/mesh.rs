//! A trust domain for one run: its authority, and the X.509-SVIDs of the two callers and of the workload they call.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) struct Mesh {
    authority: Issuer<'static, KeyPair>,
    root: Certificate,
}

/// A certificate with its key.
pub(crate) struct Svid {
    pub(crate) certificate: Certificate,
    pub(crate) key: KeyPair,
}

impl Mesh {
    pub(crate) fn new(trust_domain: &str) -> anyhow::Result<Self> {
        let mut params = params(&format!("spiffe://{trust_domain}"), 24 * HOUR)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("make the key of the authority")?;
        let root = params.self_signed(&key).context("sign the certificate of the authority")?;
        Ok(Self { authority: Issuer::new(params, key), root })
    }

    pub(crate) fn root(&self) -> &Certificate {
        &self.root
    }

    /// Writes the trust bundle.
    pub(crate) fn write_bundle(&self, path: &Path) -> anyhow::Result<()> {
        fs::write(path, self.root.pem()).context("write the trust bundle")
    }

    /// An SVID of one hour, as SPIRE gives; `address` is an IP address for clients that check one.
    pub(crate) fn issue(&self, spiffe_id: &str, address: Option<std::net::IpAddr>) -> anyhow::Result<Svid> {
        let mut params = params(spiffe_id, HOUR)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyAgreement];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names.extend(address.map(SanType::IpAddress));
        let key = KeyPair::generate().context("make a key")?;
        let certificate = params.signed_by(&key, &self.authority).context("sign a certificate")?;
        Ok(Svid { certificate, key })
    }
}

fn params(spiffe_id: &str, lifetime: Duration) -> anyhow::Result<CertificateParams> {
    #[expect(clippy::disallowed_methods, reason = "the clock module belongs to doorward, and this is not doorward")]
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(spiffe_id.try_into().context("a SPIFFE ID is ASCII")?)];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "bench");
    params.not_before = (now - Duration::from_secs(60)).into();
    params.not_after = (now + lifetime).into();
    Ok(params)
}
