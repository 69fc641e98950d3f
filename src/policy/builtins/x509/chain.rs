//! Whether a chain of certificates holds: webpki looks for a path from the leaf to the root, and what Go demands beyond that
//! is looked at here. webpki takes the root for granted, Go does not.

use regorus::Value;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{
    ALL_VERIFICATION_ALGS, EndEntityCert, Error, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage, anchor_from_trusted_cert,
};
use x509_parser::{certificate::X509Certificate, extensions::ParsedExtension};

use super::extension::{self, USAGES};
use crate::policy::builtins::{Fault, context, operand};

const ANY: &str = "2.5.29.37.0";
/// OPA's names of extended key usages, in the order of Go's numbers.
const USAGE_NAMES: [&str; 14] = [
    "KeyUsageAny",
    "KeyUsageServerAuth",
    "KeyUsageClientAuth",
    "KeyUsageCodeSigning",
    "KeyUsageEmailProtection",
    "KeyUsageIPSECEndSystem",
    "KeyUsageIPSECTunnel",
    "KeyUsageIPSECUser",
    "KeyUsageTimeStamping",
    "KeyUsageOCSPSigning",
    "KeyUsageMicrosoftServerGatedCrypto",
    "KeyUsageNetscapeServerGatedCrypto",
    "KeyUsageMicrosoftCommercialCodeSigning",
    "KeyUsageMicrosoftKernelCodeSigning",
];

/// What the caller demands of a chain beyond its signatures.
#[derive(Default)]
pub(super) struct Demands {
    name: Option<String>,
    /// Nanoseconds since the Unix epoch; the evaluation's time where there is none.
    time: Option<i64>,
    /// Object identifiers, one of which the whole chain has to be good for; TLS servers where there is none.
    usages: Vec<&'static str>,
}

impl Demands {
    pub(super) fn of(options: Option<&Value>) -> Result<Self, Fault> {
        let Some(Value::Object(options)) = options else { return Err(operand(2, "object")) };
        let mut demands = Self::default();
        for (name, value) in options.iter() {
            let Value::String(name) = name else { continue };
            match (name.as_ref(), value) {
                ("DNSName", Value::String(text)) => {
                    demands.name = Some(text.trim_matches('"').to_owned()).filter(|name| !name.is_empty());
                }
                ("CurrentTime", Value::Number(_)) => {
                    let time = value.as_i64().map_err(|_| Fault::from("'CurrentTime' should be a valid int64 number"))?;
                    demands.time = Some(time);
                }
                // webpki has a budget of its own, which is Go's default.
                ("MaxConstraintComparisons", Value::Number(_)) => {
                    value.as_i64().map_err(|_| Fault::from("'MaxConstraintComparisons' should be a valid number"))?;
                }
                ("KeyUsages", Value::Array(names)) => demands.usages = usages(names.iter())?,
                ("KeyUsages", Value::Set(names)) => demands.usages = usages(names.iter())?,
                ("DNSName" | "CurrentTime" | "MaxConstraintComparisons" | "KeyUsages", _) => {
                    return Err(Fault(format!("'{name}' is of the wrong kind")));
                }
                _ => return Err("invalid key option".into()),
            }
        }
        Ok(demands)
    }

    /// Seconds since the Unix epoch.
    fn seconds(&self) -> i64 {
        self.time.unwrap_or_else(context::now_ns).div_euclid(1_000_000_000)
    }
}

fn usages<'a>(names: impl Iterator<Item = &'a Value>) -> Result<Vec<&'static str>, Fault> {
    let mut found = Vec::new();
    for name in names {
        let Value::String(name) = name else { continue };
        let name = name.trim_matches('"');
        let known = USAGE_NAMES.iter().zip(USAGES).find(|(known, _)| **known == name);
        found.push(known.map(|(_, oid)| oid).ok_or_else(|| Fault(format!("invalid entries for 'KeyUsages' found: [{name}]")))?);
    }
    Ok(found)
}

/// The chain from the last certificate, the leaf, to the first, the root, if it holds.
pub(super) fn verified<'a, 'b>(
    certificates: &'a [X509Certificate<'b>],
    demands: &Demands,
) -> Result<Option<Vec<&'a X509Certificate<'b>>>, Fault> {
    let [root, intermediates @ .., leaf] = certificates else { return Ok(None) };
    let Ok(seconds) = u64::try_from(demands.seconds()) else { return Ok(None) };
    let der = |certificate: &X509Certificate<'b>| CertificateDer::from(certificate.as_raw());
    let (root_der, leaf_der) = (der(root), der(leaf));
    let intermediate_ders: Vec<_> = intermediates.iter().map(der).collect();
    let leaf_cert = match EndEntityCert::try_from(&leaf_der) {
        Ok(leaf) => leaf,
        Err(error) => return refused(&error),
    };
    let Ok(anchor) = anchor_from_trusted_cert(&root_der) else { return Ok(None) };
    if let Some(name) = &demands.name {
        let Ok(name) = ServerName::try_from(name.trim_matches(['[', ']'])) else { return Ok(None) };
        if leaf_cert.verify_is_valid_for_subject_name(&name).is_err() {
            return Ok(None);
        }
    }
    let anchors = [anchor];
    let wanted: &[&str] = if demands.usages.is_empty() { &[USAGES[1]] } else { &demands.usages };
    let mut last = Error::UnknownIssuer;
    for usage in wanted {
        // A path is looked for that Go takes, too.
        let takes = |path: &webpki::VerifiedPath<'_>| {
            let issuers = path.intermediate_certificates().map(|issuer| issuer.der());
            let issuers = issuers.filter_map(|der| intermediates.iter().find(|one| one.as_raw() == der.as_ref()));
            let issuers: Vec<_> = issuers.chain([root]).collect();
            let sound = issuers.iter().enumerate().all(|(below, issuer)| may_issue(issuer, below))
                && [leaf].into_iter().chain(issuers).all(|one| is_understood(one))
                && holds_at(root, demands.seconds())
                && allows(root, usage);
            if sound { Ok(()) } else { Err(Error::UnknownIssuer) }
        };
        let path = leaf_cert.verify_for_usage(
            ALL_VERIFICATION_ALGS,
            &anchors,
            &intermediate_ders,
            UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)),
            Usage(usage),
            None,
            Some(&takes),
        );
        match path {
            Ok(path) => {
                let issuers = path.intermediate_certificates().map(|issuer| issuer.der());
                let issuers = issuers.filter_map(|der| intermediates.iter().find(|one| one.as_raw() == der.as_ref()));
                return Ok(Some([leaf].into_iter().chain(issuers).chain([root]).collect()));
            }
            Err(error) => last = error,
        }
    }
    refused(&last)
}

/// Nothing, or the end of the evaluation where Go might find that the chain holds.
fn refused<T>(error: &Error) -> Result<Option<T>, Fault> {
    match error {
        Error::CaUsedAsEndEntity => Err(Fault::limit("the leaf is a certificate authority, which is not verified as a leaf")),
        Error::UnsupportedCertVersion => Err(Fault::limit("the leaf is no X.509 certificate of version 3")),
        _ => Ok(None),
    }
}

/// One extended key usage, which a certificate without any allows.
struct Usage(&'static str);

impl ExtendedKeyUsageValidator for Usage {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), Error> {
        let mut present = Vec::new();
        for purpose in purposes {
            present.push(purpose?.to_decoded_oid());
        }
        let is = |purpose: &[usize], oid: &str| purpose.iter().map(usize::to_string).eq(oid.split('.'));
        let allowed = present.is_empty() || present.iter().any(|purpose| is(purpose, self.0) || is(purpose, ANY));
        if allowed || self.0 == ANY {
            return Ok(());
        }
        Err(Error::RequiredEkuNotFoundContext(webpki::RequiredEkuNotFoundContext { required: KeyUsage::server_auth(), present }))
    }
}

/// Whether it may sign certificates, with `below` intermediates between it and the leaf.
fn may_issue(certificate: &X509Certificate<'_>, below: usize) -> bool {
    let may_sign = match certificate.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
        Err(_) => false,
    };
    let is_authority = match certificate.basic_constraints() {
        Ok(Some(basic)) => {
            let longest = basic.value.path_len_constraint.map(|longest| usize::try_from(longest).unwrap_or(usize::MAX));
            basic.value.ca && longest.is_none_or(|longest| below <= longest)
        }
        // Before version 3 there were no extensions.
        Ok(None) => certificate.version.0 < 2,
        Err(_) => false,
    };
    may_sign && is_authority
}

fn holds_at(certificate: &X509Certificate<'_>, seconds: i64) -> bool {
    let validity = certificate.validity();
    (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&seconds)
}

/// Whether no extension is critical that is not understood.
fn is_understood(certificate: &X509Certificate<'_>) -> bool {
    extension::read(certificate.extensions())
        .is_ok_and(|fields| fields.get("UnhandledCriticalExtensions").is_none_or(|list| list.is_null()))
}

fn allows(certificate: &X509Certificate<'_>, usage: &str) -> bool {
    let mut lists =
        certificate.extensions().iter().filter(|one| matches!(one.parsed_extension(), ParsedExtension::ExtendedKeyUsage(_)));
    usage == ANY
        || lists.all(|list| {
            extension::usages(list.value)
                .is_ok_and(|usages| usages.iter().map(|oid| oid.to_id_string()).any(|oid| oid == usage || oid == ANY))
        })
}
