//! A certificate, or a request for one, as the JSON of Go's `x509.Certificate` and `x509.CertificateRequest`.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chrono::{DateTime, SecondsFormat};
use num_bigint::BigUint;
use serde_json::{Value as Json, json};
use x509_parser::{
    asn1_rs::{Any, Oid, Tag},
    certificate::X509Certificate,
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::X509Extension,
    public_key::PublicKey,
    signature_algorithm::SignatureAlgorithm,
    time::ASN1Time,
    x509::{AlgorithmIdentifier, SubjectPublicKeyInfo, X509Name},
};

use super::{Members, extension};
use crate::policy::builtins::{Fault, within};

/// Most bytes of a number, or of a key.
const MAX_NUMBER: usize = 4096;

/// Go's numbers of signature algorithms, but RSA-PSS.
const SIGNATURES: [(&str, u8); 14] = [
    ("1.2.840.113549.1.1.2", 1),
    ("1.2.840.113549.1.1.4", 2),
    ("1.2.840.113549.1.1.5", 3),
    ("1.3.14.3.2.29", 3),
    ("1.2.840.113549.1.1.11", 4),
    ("1.2.840.113549.1.1.12", 5),
    ("1.2.840.113549.1.1.13", 6),
    ("1.2.840.10040.4.3", 7),
    ("2.16.840.1.101.3.4.3.2", 8),
    ("1.2.840.10045.4.1", 9),
    ("1.2.840.10045.4.3.2", 10),
    ("1.2.840.10045.4.3.3", 11),
    ("1.2.840.10045.4.3.4", 12),
    ("1.3.101.112", 16),
];
/// RSA-PSS, by the hash.
const PSS: [(&str, u8); 3] = [("2.16.840.1.101.3.4.2.1", 13), ("2.16.840.1.101.3.4.2.2", 14), ("2.16.840.1.101.3.4.2.3", 15)];
const KEYS: [(&str, u8); 4] =
    [("1.2.840.113549.1.1.1", 1), ("1.2.840.10040.4.1", 2), ("1.2.840.10045.2.1", 3), ("1.3.101.112", 4)];
/// Attributes of a name that Go has a list for.
const LISTS: [(&str, &str); 7] = [
    ("2.5.4.6", "Country"),
    ("2.5.4.7", "Locality"),
    ("2.5.4.8", "Province"),
    ("2.5.4.9", "StreetAddress"),
    ("2.5.4.10", "Organization"),
    ("2.5.4.11", "OrganizationalUnit"),
    ("2.5.4.17", "PostalCode"),
];

pub(super) fn show(certificate: &X509Certificate<'_>) -> Result<Members, Fault> {
    let tbs = &certificate.tbs_certificate;
    within(certificate.raw_serial().len() <= MAX_NUMBER, "the serial number is too long")?;
    if certificate.raw_serial().first().is_some_and(|byte| byte & 0x80 != 0) {
        return Err("x509: negative serial number".into());
    }
    tbs.extensions_map().map_err(|_| Fault::from("x509: certificate contains duplicate extensions"))?;
    let mut shown = extension::read(tbs.extensions())?;
    shown.extend(common(&tbs.subject, &tbs.subject_pki, &certificate.signature_algorithm, &certificate.signature_value.data)?);
    put(
        &mut shown,
        [
            ("Extensions", list(tbs.extensions().iter().map(raw))),
            ("Issuer", name(&tbs.issuer)?),
            ("NotAfter", time(tbs.validity.not_after)),
            ("NotBefore", time(tbs.validity.not_before)),
            ("Raw", base64(certificate.as_raw())),
            ("RawIssuer", base64(tbs.issuer.as_raw())),
            ("RawTBSCertificate", base64(tbs.as_ref())),
            ("SerialNumber", integer(certificate.raw_serial())),
            ("Version", (tbs.version.0 + 1).into()),
        ],
    );
    Ok(shown)
}

pub(super) fn show_request(request: &X509CertificationRequest<'_>) -> Result<Members, Fault> {
    let info = &request.certification_request_info;
    let requested = info.iter_attributes().filter_map(|attribute| match attribute.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(requested) => Some(requested.extensions.as_slice()),
        _ => None,
    });
    let requested: Vec<&[X509Extension<'_>]> = requested.collect();
    let extensions: Vec<X509Extension<'_>> = requested.concat();
    let read = extension::read(&extensions)?;
    let known = ["DNSNames", "EmailAddresses", "ExtraExtensions", "IPAddresses", "URIs"];
    let mut shown: Members = read.into_iter().filter(|(name, _)| known.contains(&name.as_str())).collect();
    shown.extend(common(&info.subject, &info.subject_pki, &request.signature_algorithm, &request.signature_value.data)?);
    // Go reads what it can of an extension into this older form: its name, and what stands behind that.
    let old = |extension: &X509Extension<'_>| {
        let value = if extension.critical { Json::Bool(true) } else { base64(extension.value) };
        json!({"Type": oid(&extension.oid), "Value": value})
    };
    let attribute = |extensions: &&[X509Extension<'_>]| json!({"Type": [1, 2, 840, 113549, 1, 9, 14], "Value": [extensions.iter().map(old).collect::<Json>()]});
    put(
        &mut shown,
        [
            ("Attributes", list(requested.iter().map(attribute))),
            ("Extensions", list(extensions.iter().map(raw))),
            ("Raw", base64(request.as_raw())),
            ("RawTBSCertificateRequest", base64(info.raw)),
            ("Version", info.version.0.into()),
        ],
    );
    Ok(shown)
}

/// What both have.
fn common(
    subject: &X509Name<'_>,
    key: &SubjectPublicKeyInfo<'_>,
    algorithm: &AlgorithmIdentifier<'_>,
    signature: &[u8],
) -> Result<Members, Fault> {
    let mut shown = Members::new();
    put(
        &mut shown,
        [
            ("PublicKey", public_key(key)?),
            ("PublicKeyAlgorithm", number_of(&KEYS, &key.algorithm.algorithm)),
            ("RawSubject", base64(subject.as_raw())),
            ("RawSubjectPublicKeyInfo", base64(key.raw)),
            ("Signature", base64(signature)),
            ("SignatureAlgorithm", signature_algorithm(algorithm)),
            ("Subject", name(subject)?),
        ],
    );
    Ok(shown)
}

pub(super) fn put<const N: usize>(shown: &mut Members, members: [(&str, Json); N]) {
    shown.extend(members.map(|(name, value)| (name.to_owned(), value)));
}

/// Bytes as Go's JSON has them.
pub(super) fn base64(bytes: &[u8]) -> Json {
    Json::String(BASE64_STANDARD.encode(bytes))
}

/// A list, which Go shows as null where nothing was put into it.
pub(super) fn list(items: impl Iterator<Item = Json>) -> Json {
    let items: Vec<Json> = items.collect();
    if items.is_empty() { Json::Null } else { Json::Array(items) }
}

pub(super) fn oid(oid: &Oid<'_>) -> Json {
    oid.to_id_string().split('.').map(|arc| serde_json::from_str(arc).unwrap_or(Json::Null)).collect()
}

/// An unsigned number, from its bytes.
pub(super) fn integer(bytes: &[u8]) -> Json {
    whole(&BigUint::from_bytes_be(bytes))
}

pub(super) fn whole(number: &BigUint) -> Json {
    serde_json::from_str(&number.to_string()).unwrap_or(Json::Null)
}

fn raw(extension: &X509Extension<'_>) -> Json {
    json!({"Critical": extension.critical, "Id": oid(&extension.oid), "Value": base64(extension.value)})
}

fn time(time: ASN1Time) -> Json {
    DateTime::from_timestamp(time.timestamp(), 0)
        .map_or(Json::Null, |time| Json::String(time.to_rfc3339_opts(SecondsFormat::Secs, true)))
}

fn number_of(table: &[(&str, u8)], oid: &Oid<'_>) -> Json {
    let oid = oid.to_id_string();
    table.iter().find(|(known, _)| *known == oid).map_or(0, |(_, number)| *number).into()
}

fn signature_algorithm(algorithm: &AlgorithmIdentifier<'_>) -> Json {
    match SignatureAlgorithm::try_from(algorithm) {
        Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) => number_of(&PSS, parameters.hash_algorithm_oid()),
        _ => number_of(&SIGNATURES, &algorithm.algorithm),
    }
}

/// As far as Go knows the kind of key.
fn public_key(key: &SubjectPublicKeyInfo<'_>) -> Result<Json, Fault> {
    if key.algorithm.algorithm.to_id_string() == "1.3.101.112" {
        return Ok(base64(&key.subject_public_key.data));
    }
    within(key.subject_public_key.data.len() <= MAX_NUMBER, "the public key is too long")?;
    match key.parsed().map_err(|_| Fault::from("x509: malformed public key"))? {
        PublicKey::RSA(key) => Ok(json!({"E": integer(key.exponent), "N": integer(key.modulus)})),
        PublicKey::EC(point) => {
            point_of(point.data()).ok_or_else(|| Fault::from("x509: failed to unmarshal elliptic curve point"))
        }
        _ => Ok(Json::Null),
    }
}

/// An uncompressed point (SEC 1 §2.3.3).
pub(super) fn point_of(bytes: &[u8]) -> Option<Json> {
    let coordinates = bytes.strip_prefix(&[4])?;
    let (x, y) = coordinates.split_at_checked(coordinates.len() / 2).filter(|(x, y)| x.len() == y.len())?;
    Some(json!({"Curve": {}, "X": integer(x), "Y": integer(y)}))
}

fn name(name: &X509Name<'_>) -> Result<Json, Fault> {
    let mut shown = Members::new();
    shown.extend(LISTS.map(|(_, field)| (field.to_owned(), Json::Null)));
    put(&mut shown, [("CommonName", "".into()), ("SerialNumber", "".into()), ("ExtraNames", Json::Null)]);
    let mut all = Vec::new();
    for attribute in name.iter_attributes() {
        let kind = attribute.attr_type().to_id_string();
        let value = Json::String(text(attribute.attr_value())?);
        all.push(json!({"Type": oid(attribute.attr_type()), "Value": value}));
        match kind.as_str() {
            "2.5.4.3" => put(&mut shown, [("CommonName", value)]),
            "2.5.4.5" => put(&mut shown, [("SerialNumber", value)]),
            _ => {
                let field = LISTS.iter().find(|(oid, _)| *oid == kind).and_then(|(_, field)| shown.get_mut(*field));
                match field {
                    Some(Json::Array(values)) => values.push(value),
                    Some(field) => *field = Json::Array(vec![value]),
                    None => {}
                }
            }
        }
    }
    shown.insert("Names".to_owned(), list(all.into_iter()));
    Ok(Json::Object(shown))
}

/// The string types of ASN.1 that names are made of.
fn text(value: &Any<'_>) -> Result<String, Fault> {
    let malformed = || Fault::from("x509: invalid RDNSequence: invalid attribute value");
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString => {
            String::from_utf8(value.data.to_vec()).map_err(|_| malformed())
        }
        Tag::T61String => Ok(value.data.iter().copied().map(char::from).collect()),
        Tag::BmpString => {
            let units = value.data.chunks(2).map(|pair| pair.iter().fold(0, |unit, byte| unit << 8 | u16::from(*byte)));
            String::from_utf16(&units.collect::<Vec<u16>>()).map_err(|_| malformed())
        }
        _ => Err(malformed()),
    }
}
