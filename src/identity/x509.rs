//! The rules that a peer's certificate must keep to be an X.509-SVID (SPIFFE X.509-SVID §2 to §5), and the SPIFFE ID
//! grammar. Whether its chain leads to a root is asked in `trust`, whether it is valid now in `identity`.

use aws_lc_rs::digest;
use base64::{Engine, prelude::BASE64_STANDARD};
use percent_encoding::percent_decode_str;
use rustls_pki_types::CertificateDer;
use spiffe::SpiffeId;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use super::X509;
use crate::verdict::Reason;

/// Longest certificate text that is looked at, in bytes as received.
pub const MAX_TEXT: usize = 16 * 1024;

/// Longest SPIFFE ID that must be accepted (SPIFFE ID §2.3); nothing longer is.
const MAX_ID: usize = 2048;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Context-specific tag of `uniformResourceIdentifier` in a GeneralName (RFC 5280 §4.2.1.6).
const URI_TAG: u32 = 6;

/// Reads `source.certificate`: percent-encoded PEM of exactly one certificate. A `+` is a letter of base64, never a
/// blank. A bad escape stays as it is, and `%` has no place in PEM.
pub fn decode(text: &str) -> Result<CertificateDer<'static>, Reason> {
    let pem = percent_decode_str(text).decode_utf8().map_err(|_| Reason::CertificateMalformed)?;
    let is_line_end = |c| matches!(c, '\r' | '\n');
    let body = pem
        .strip_prefix(BEGIN)
        .and_then(|rest| rest.split_once(END))
        .and_then(|(body, rest)| rest.chars().all(is_line_end).then_some(body))
        .ok_or(Reason::CertificateMalformed)?;
    let body: String = body.chars().filter(|c| !is_line_end(*c)).collect();
    BASE64_STANDARD.decode(body).map(CertificateDer::from).map_err(|_| Reason::CertificateMalformed)
}

/// Checks the rules of a leaf, all but chain and validity. `Reason::NoUriSan` says that it is no SVID at all, which is
/// why the names are looked at first.
pub fn svid(der: &[u8], strict_basic_constraints: bool) -> Result<(SpiffeId, X509), Reason> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| Reason::CertificateMalformed)?;
    if !rest.is_empty() {
        return Err(Reason::CertificateMalformed);
    }
    let uri = only_uri(&certificate)?;
    not_an_authority(&certificate, strict_basic_constraints)?;
    let id = workload(uri)?;
    may_authenticate(&certificate)?;
    let serial = certificate.raw_serial();
    let x509 = X509 {
        sha256: hex::encode(digest::digest(&digest::SHA256, der)).into(),
        serial: hex::encode(serial.iter().position(|byte| *byte != 0).and_then(|at| serial.get(at..)).unwrap_or(&[0])),
        issuer: certificate.issuer().to_string(),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
    };
    Ok((id, x509))
}

/// First and last second of validity of any certificate, in Unix time.
pub fn validity(der: &[u8]) -> Option<(i64, i64)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some((certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp()))
}

/// Reads the SPIFFE ID of a workload: with a path, and in its one canonical spelling. The crate also takes scheme and
/// trust domain in upper case, but an SVID has to carry them in lower case (SPIFFE ID §2.1): what compares or logs the
/// bytes of a certificate must see the same identity as we do.
pub fn workload(uri: &str) -> Result<SpiffeId, Reason> {
    if uri.len() > MAX_ID {
        return Err(Reason::InvalidSpiffeId);
    }
    let id = SpiffeId::new(uri).map_err(|_| Reason::InvalidSpiffeId)?;
    match id.path().is_empty() || id.to_string() != uri {
        true => Err(Reason::InvalidSpiffeId),
        false => Ok(id),
    }
}

/// The URI SAN, of which there must be one whatever its scheme. One that is no text counts too.
fn only_uri<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, Reason> {
    let names = certificate.subject_alternative_name().map_err(|_| Reason::CertificateMalformed)?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(Some(*uri)),
        GeneralName::Invalid(tag, _) if tag.0 == URI_TAG => Some(None),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (None, _) => Err(Reason::NoUriSan),
        (Some(uri), None) => uri.ok_or(Reason::InvalidSpiffeId),
        (Some(_), Some(_)) => Err(Reason::MultipleUriSans),
    }
}

/// A signing certificate must not be used to authenticate (SPIFFE X.509-SVID §4.1). RFC 5280 §4.2.1.9 reads an absent
/// extension as no authority; strictly, whoever leaves it out has not said so.
fn not_an_authority(certificate: &X509Certificate<'_>, strict: bool) -> Result<(), Reason> {
    let constraints = certificate.basic_constraints().map_err(|_| Reason::CertificateMalformed)?;
    match constraints.map_or(strict, |extension| extension.value.ca) {
        true => Err(Reason::CaCertificate),
        false => Ok(()),
    }
}

/// SPIFFE X.509-SVID §4.3 and §4.4: key usage is there with `digitalSignature` and nothing that signs certificates;
/// extended key usage, where it is there, names client authentication.
fn may_authenticate(certificate: &X509Certificate<'_>) -> Result<(), Reason> {
    let usage = certificate.key_usage().map_err(|_| Reason::CertificateMalformed)?.ok_or(Reason::KeyUsage)?.value;
    if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
        return Err(Reason::KeyUsage);
    }
    let extended = certificate.extended_key_usage().map_err(|_| Reason::CertificateMalformed)?;
    match extended.is_none_or(|extension| extension.value.client_auth) {
        true => Ok(()),
        false => Err(Reason::ExtendedKeyUsage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table of vectors")]
    fn spiffe_id_grammar() {
        let (name, path) = ("a".repeat(255), "b".repeat(2048 - "spiffe://td.test/".len()));
        let table: &[(&str, &str, bool)] = &[
            ("plain", "spiffe://td.test/a", true),
            ("S-ID-1 path in upper case", "spiffe://td.test/A", true),
            ("S-ID-1, D 32 trust domain in upper case", "spiffe://TD/x", false),
            ("S-ID-1 scheme in upper case", "SPIFFE://td/x", false),
            ("S-ID-1 other scheme", "https://td.test/a", false),
            ("S-ID-1 no scheme", "td.test/a", false),
            ("S-ID-1 one slash", "spiffe:/td.test/a", false),
            ("S-ID-1 three slashes", "spiffe:///td.test/a", false),
            ("S-ID-1 no authority", "spiffe:td.test/a", false),
            ("S-ID-1 no colon", "spiffe//td.test/a", false),
            ("S-ID-1 scheme and no more", "spiffe://", false),
            ("S-ID-1 longer scheme", "spiffes://td.test/a", false),
            ("S-ID-1 blank before", " spiffe://td.test/a", false),
            ("S-ID-1 mixed case in the path stays", "spiffe://td.test/Ns/A", true),
            ("S-ID-1 one upper-case letter in the trust domain", "spiffe://td.Test/a", false),
            ("S-ID-2 all characters", "spiffe://a-z_0.9/x", true),
            ("S-ID-2 reads like an address", "spiffe://1.2.3.4/x", true),
            ("S-ID-2 255 bytes", &format!("spiffe://{name}/a"), true),
            ("S-ID-2 256 bytes", &format!("spiffe://{name}a/a"), false),
            ("S-ID-2 empty", "spiffe:///a", false),
            ("S-ID-2 user", "spiffe://user@td/x", false),
            ("S-ID-2, D 32 port", "spiffe://td:1/x", false),
            ("S-ID-2 percent", "spiffe://td%2etest/x", false),
            ("S-ID-2 IPv6", "spiffe://[::1]/x", false),
            ("S-ID-2 one letter", "spiffe://t/a", true),
            ("S-ID-2 digits", "spiffe://0123456789/a", true),
            ("S-ID-2 dots and dashes at the ends", "spiffe://-td.test./a", true),
            ("S-ID-2 two dots", "spiffe://td..test/a", true),
            ("S-ID-2 user and password", "spiffe://user:secret@td/x", false),
            ("S-ID-2 empty user", "spiffe://@td/x", false),
            ("S-ID-2 empty port", "spiffe://td:/x", false),
            ("S-ID-2 tilde", "spiffe://td~/x", false),
            ("S-ID-2 plus", "spiffe://td+a/x", false),
            ("S-ID-2 blank", "spiffe://t d/x", false),
            ("S-ID-2 backslash", "spiffe://td\\x/a", false),
            ("S-ID-2 comma", "spiffe://td,other/x", false),
            ("S-ID-2 punycode is plain", "spiffe://xn--td-mia.test/x", true),
            ("S-ID-2 full-width letter", "spiffe://\u{ff54}d/x", false),
            ("S-ID-2 Kelvin sign", "spiffe://\u{212a}d/x", false),
            ("S-ID-2 not ASCII", "spiffe://tä.test/x", false),
            ("S-ID-3 all characters", "spiffe://td/aZ.9-_/..b/...", true),
            ("X-2 no path", "spiffe://td", false),
            ("S-ID-3, D 32 slash only", "spiffe://td/", false),
            ("S-ID-3 slash at the end", "spiffe://td/a/", false),
            ("S-ID-3 empty segment", "spiffe://td//a", false),
            ("S-ID-3 dot", "spiffe://td/./a", false),
            ("S-ID-3, D 32 dots", "spiffe://td/a/../b", false),
            ("S-ID-3 dots at the end", "spiffe://td/a/..", false),
            ("S-ID-3 percent", "spiffe://td/a%2fb", false),
            ("S-ID-3, D 32 query", "spiffe://td/a?q", false),
            ("S-ID-3 empty query", "spiffe://td/a?", false),
            ("S-ID-3, D 32 fragment", "spiffe://td/a#f", false),
            ("S-ID-3 empty fragment", "spiffe://td/a#", false),
            ("S-ID-3 three dots are a name", "spiffe://td/...", true),
            ("S-ID-3 a dot within", "spiffe://td/a.b/.c/d.", true),
            ("S-ID-3 two slashes within", "spiffe://td/a//b", false),
            ("S-ID-3 two slashes at the end", "spiffe://td/a//", false),
            ("S-ID-3 dot at the end", "spiffe://td/a/.", false),
            ("S-ID-3 percent of a dot", "spiffe://td/%2e%2e/a", false),
            ("S-ID-3 bare percent", "spiffe://td/a%", false),
            ("S-ID-3 colon", "spiffe://td/a:b", false),
            ("S-ID-3 at", "spiffe://td/a@b", false),
            ("S-ID-3 tilde", "spiffe://td/~a", false),
            ("S-ID-3 asterisk", "spiffe://td/*", false),
            ("S-ID-3 backslash", "spiffe://td/a\\b", false),
            ("S-ID-3 plus", "spiffe://td/a+b", false),
            ("S-ID-3 semicolon", "spiffe://td/a;b", false),
            ("S-ID-3 comma and a second", "spiffe://td/a,spiffe://td/b", false),
            ("S-ID-3 query without path", "spiffe://td?q", false),
            ("S-ID-3 fragment without path", "spiffe://td#f", false),
            ("S-ID-3 tab", "spiffe://td/a\tb", false),
            ("S-ID-3 carriage return", "spiffe://td/a\r", false),
            ("S-ID-3 DEL", "spiffe://td/a\u{7f}", false),
            ("S-ID-3 right-to-left mark", "spiffe://td/a\u{200f}", false),
            ("S-ID-3 not ASCII", "spiffe://td/ä", false),
            ("S-ID-3 NUL", "spiffe://td/a\0", false),
            ("S-ID-3 blank", "spiffe://td/a b", false),
            ("line end", "spiffe://td/a\n", false),
            ("empty", "", false),
            ("S-ID-4 2048 bytes", &format!("spiffe://td.test/{path}"), true),
            ("S-ID-4, D 32 2049 bytes", &format!("spiffe://td.test/{path}b"), false),
        ];
        assert!(table.len() >= 60);
        for (name, uri, accepted) in table {
            assert_eq!(workload(uri).is_ok(), *accepted, "{name}: {uri}");
        }
    }
}
