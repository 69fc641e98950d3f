//! The extensions of a certificate (RFC 5280 §4.2) as fields of Go's `x509.Certificate`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value as Json, json};
use x509_parser::{
    asn1_rs::Oid,
    extensions::{DistributionPointName, GeneralName, GeneralSubtree, ParsedExtension, X509Extension},
    prelude::FromDer,
};

use super::{
    Members,
    certificate::{base64, list, oid, put},
};
use crate::policy::builtins::{Fault, uri};

/// The URIs as texts: beside Go's fields, for those who show them.
pub(super) const URI_TEXTS: &str = "URI texts";

/// Go's numbers of extended key usages are their places here.
pub(super) const USAGES: [&str; 14] = [
    "2.5.29.37.0",
    "1.3.6.1.5.5.7.3.1",
    "1.3.6.1.5.5.7.3.2",
    "1.3.6.1.5.5.7.3.3",
    "1.3.6.1.5.5.7.3.4",
    "1.3.6.1.5.5.7.3.5",
    "1.3.6.1.5.5.7.3.6",
    "1.3.6.1.5.5.7.3.7",
    "1.3.6.1.5.5.7.3.8",
    "1.3.6.1.5.5.7.3.9",
    "1.3.6.1.4.1.311.10.3.3",
    "2.16.840.1.113730.4.1",
    "1.3.6.1.4.1.311.2.1.22",
    "1.3.6.1.4.1.311.61.1.1",
];
const OCSP: &str = "1.3.6.1.5.5.7.48.1";
const ISSUERS: &str = "1.3.6.1.5.5.7.48.2";

/// Fields that are null unless an extension fills them.
const EMPTY: [&str; 25] = [
    "AuthorityKeyId",
    "CRLDistributionPoints",
    "DNSNames",
    "EmailAddresses",
    "ExcludedDNSDomains",
    "ExcludedEmailAddresses",
    "ExcludedIPRanges",
    "ExcludedURIDomains",
    "ExtKeyUsage",
    "ExtraExtensions",
    "IPAddresses",
    "IssuingCertificateURL",
    "OCSPServer",
    "PermittedDNSDomains",
    "PermittedEmailAddresses",
    "PermittedIPRanges",
    "PermittedURIDomains",
    "Policies",
    "PolicyIdentifiers",
    "PolicyMappings",
    "SubjectKeyId",
    "URIs",
    "UnhandledCriticalExtensions",
    "UnknownExtKeyUsage",
    URI_TEXTS,
];
const ZERO: [&str; 5] = ["InhibitAnyPolicy", "InhibitPolicyMapping", "KeyUsage", "MaxPathLen", "RequireExplicitPolicy"];
const FALSE: [&str; 7] = [
    "BasicConstraintsValid",
    "InhibitAnyPolicyZero",
    "InhibitPolicyMappingZero",
    "IsCA",
    "MaxPathLenZero",
    "PermittedDNSDomainsCritical",
    "RequireExplicitPolicyZero",
];

/// Every field that extensions fill.
pub(super) fn read(extensions: &[X509Extension<'_>]) -> Result<Members, Fault> {
    let mut fields = Members::new();
    fields.extend(EMPTY.map(|name| (name.to_owned(), Json::Null)));
    fields.extend(ZERO.map(|name| (name.to_owned(), 0.into())));
    fields.extend(FALSE.map(|name| (name.to_owned(), false.into())));
    let mut unhandled = Vec::new();
    for extension in extensions {
        if !fill(&mut fields, extension)? && extension.critical {
            unhandled.push(oid(&extension.oid));
        }
    }
    put(&mut fields, [("UnhandledCriticalExtensions", list(unhandled.into_iter()))]);
    Ok(fields)
}

/// Fills the fields of one extension; false where it is not understood.
fn fill(fields: &mut Members, extension: &X509Extension<'_>) -> Result<bool, Fault> {
    match extension.parsed_extension() {
        ParsedExtension::KeyUsage(usage) => put(fields, [("KeyUsage", usage.flags.into())]),
        ParsedExtension::ExtendedKeyUsage(_) => {
            let usages = usages(extension.value)?;
            let number = |usage: &Oid<'_>| USAGES.iter().position(|known| *known == usage.to_id_string());
            let unknown = usages.iter().filter(|usage| number(usage).is_none()).map(oid);
            put(
                fields,
                [("ExtKeyUsage", list(usages.iter().filter_map(number).map(Json::from))), ("UnknownExtKeyUsage", list(unknown))],
            );
        }
        ParsedExtension::BasicConstraints(basic) => put(
            fields,
            [
                ("BasicConstraintsValid", true.into()),
                ("IsCA", basic.ca.into()),
                ("MaxPathLen", basic.path_len_constraint.map_or(Json::from(-1), Json::from)),
                ("MaxPathLenZero", (basic.path_len_constraint == Some(0)).into()),
            ],
        ),
        ParsedExtension::SubjectAlternativeName(names) => return alternative_names(fields, &names.general_names),
        ParsedExtension::NameConstraints(constraints) => {
            put(fields, [("PermittedDNSDomainsCritical", extension.critical.into())]);
            let permitted = constrain(fields, "Permitted", constraints.permitted_subtrees.as_deref().unwrap_or_default())?;
            let excluded = constrain(fields, "Excluded", constraints.excluded_subtrees.as_deref().unwrap_or_default())?;
            return Ok(permitted && excluded);
        }
        ParsedExtension::AuthorityKeyIdentifier(identifier) => {
            let key = identifier.key_identifier.as_ref().map_or(Json::Null, |key| base64(key.0));
            put(fields, [("AuthorityKeyId", key)]);
        }
        ParsedExtension::SubjectKeyIdentifier(key) => put(fields, [("SubjectKeyId", base64(key.0))]),
        ParsedExtension::CRLDistributionPoints(points) => {
            let names = points.points.iter().filter_map(|point| match &point.distribution_point {
                Some(DistributionPointName::FullName(names)) => Some(names.iter().filter_map(address)),
                _ => None,
            });
            put(fields, [("CRLDistributionPoints", list(names.flatten()))]);
        }
        ParsedExtension::AuthorityInfoAccess(access) => {
            let of = |method: &str| {
                let of_method = access.iter().filter(move |access| access.access_method.to_id_string() == method);
                list(of_method.filter_map(|access| address(&access.access_location)))
            };
            put(fields, [("OCSPServer", of(OCSP)), ("IssuingCertificateURL", of(ISSUERS))]);
        }
        ParsedExtension::CertificatePolicies(policies) => put(
            fields,
            [
                ("Policies", list(policies.iter().map(|policy| policy.policy_id.to_id_string().into()))),
                ("PolicyIdentifiers", list(policies.iter().map(|policy| oid(&policy.policy_id)))),
            ],
        ),
        ParsedExtension::PolicyMappings(mappings) => {
            let shown = mappings.mappings.iter().map(|mapping| {
                let (issuer, subject) = (&mapping.issuer_domain_policy, &mapping.subject_domain_policy);
                json!({"IssuerDomainPolicy": issuer.to_id_string(), "SubjectDomainPolicy": subject.to_id_string()})
            });
            put(fields, [("PolicyMappings", list(shown))]);
        }
        ParsedExtension::PolicyConstraints(constraints) => {
            let (explicit, mapping) = (constraints.require_explicit_policy, constraints.inhibit_policy_mapping);
            put(
                fields,
                [
                    ("RequireExplicitPolicy", explicit.unwrap_or(0).into()),
                    ("RequireExplicitPolicyZero", (explicit == Some(0)).into()),
                    ("InhibitPolicyMapping", mapping.unwrap_or(0).into()),
                    ("InhibitPolicyMappingZero", (mapping == Some(0)).into()),
                ],
            );
        }
        ParsedExtension::InhibitAnyPolicy(inhibit) => put(
            fields,
            [("InhibitAnyPolicy", inhibit.skip_certs.into()), ("InhibitAnyPolicyZero", (inhibit.skip_certs == 0).into())],
        ),
        ParsedExtension::ParseError { .. } => return Err(Fault(format!("x509: malformed extension {}", extension.oid))),
        _ => return Ok(false),
    }
    Ok(true)
}

/// The extended key usages, in their order.
pub(super) fn usages(value: &[u8]) -> Result<Vec<Oid<'_>>, Fault> {
    match Vec::<Oid<'_>>::from_der(value) {
        Ok(([], usages)) => Ok(usages),
        _ => Err("x509: invalid extended key usages".into()),
    }
}

fn address(name: &GeneralName<'_>) -> Option<Json> {
    match name {
        GeneralName::URI(uri) => Some(Json::from(*uri)),
        _ => None,
    }
}

/// False where it has only names of kinds that Go passes over.
fn alternative_names(fields: &mut Members, names: &[GeneralName<'_>]) -> Result<bool, Fault> {
    let (mut dns, mut emails, mut ips, mut uris, mut texts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for name in names {
        match name {
            GeneralName::DNSName(name) => dns.push(Json::from(*name)),
            GeneralName::RFC822Name(name) => emails.push(Json::from(*name)),
            GeneralName::IPAddress(bytes) => {
                let address = ip(bytes).ok_or("x509: cannot parse IP address")?;
                ips.push(Json::String(address.to_string()));
            }
            GeneralName::URI(text) => {
                uris.push(uri::show(text).map_err(|why| Fault(format!("x509: cannot parse URI {text:?}: {why}")))?);
                texts.push(Json::from(*text));
            }
            GeneralName::Invalid(..) => return Err("x509: invalid subject alternative name".into()),
            _ => {}
        }
    }
    let any = [&dns, &emails, &ips, &uris].into_iter().any(|names| !names.is_empty());
    put(
        fields,
        [
            ("DNSNames", list(dns.into_iter())),
            ("EmailAddresses", list(emails.into_iter())),
            ("IPAddresses", list(ips.into_iter())),
            ("URIs", list(uris.into_iter())),
            (URI_TEXTS, list(texts.into_iter())),
        ],
    );
    Ok(any)
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))).ok()
}

/// Fills the constraints of one direction; false where a kind of name is not known.
fn constrain(fields: &mut Members, direction: &str, subtrees: &[GeneralSubtree<'_>]) -> Result<bool, Fault> {
    let mut all_known = true;
    let (mut dns, mut emails, mut ips, mut uris) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for subtree in subtrees {
        match &subtree.base {
            GeneralName::DNSName(name) => dns.push(Json::from(*name)),
            GeneralName::RFC822Name(name) => emails.push(Json::from(*name)),
            GeneralName::URI(name) => uris.push(Json::from(*name)),
            GeneralName::IPAddress(bytes) => {
                let (address, mask) = bytes.split_at_checked(bytes.len() / 2).unwrap_or((bytes, &[]));
                let address = ip(address).filter(|_| address.len() == mask.len()).ok_or("x509: invalid IP constraint")?;
                ips.push(json!({"IP": address.to_string(), "Mask": base64(mask)}));
            }
            _ => all_known = false,
        }
    }
    let lists = [("DNSDomains", dns), ("EmailAddresses", emails), ("IPRanges", ips), ("URIDomains", uris)];
    fields.extend(lists.map(|(kind, names)| (format!("{direction}{kind}"), list(names.into_iter()))));
    Ok(all_known)
}
