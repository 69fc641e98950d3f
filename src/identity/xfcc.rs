//! `x-forwarded-client-cert` as a carrier of intermediates, and of nothing else: Envoy sends the leaf alone in
//! `source.certificate`, and the chain that came with it only in this header. An element counts only if it speaks of the
//! very leaf that Envoy took on this connection, so whoever forges it gains nothing: what it brings is verified
//! against the trust bundle like any other certificate.
//!
//! The form is Envoy's (`x-forwarded-client-cert` in its HTTP connection manager): elements separated by commas, each
//! `key=value` pairs separated by semicolons, a value in double quotes where it holds one of `,;="`, with `\"` for a
//! quote in it. The last element is the one that this Envoy added.

use std::borrow::Cow;

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest};
use memchr::{memchr2, memchr3};
use percent_encoding::percent_decode_str;
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::verdict::Reason;

/// Longest header that is looked at, in bytes.
pub const MAX_TEXT: usize = 64 * 1024;
/// Most elements: one for each proxy on the way.
const MAX_ELEMENTS: usize = 16;
/// Most certificates of a chain, the leaf among them.
const MAX_CHAIN: usize = 8;

/// A header taken apart.
#[derive(Debug)]
pub struct Header<'t> {
    /// The element that Envoy has added about this connection.
    last: Element<'t>,
    before: Vec<Element<'t>>,
}

/// What an element before the last says (`input.peer.forwarded_unverified`): somebody else's word, that nobody here has
/// checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Forwarded {
    pub by: Vec<String>,
    pub hash: Option<String>,
    pub subject: Option<String>,
    pub uri: Vec<String>,
    pub dns: Vec<String>,
}

impl<'t> Header<'t> {
    /// # Errors
    /// `XfccMalformed` when the header is not of Envoy's form, or is too long, or has too many elements.
    pub fn parse(text: &'t str) -> Result<Self, Reason> {
        if text.len() > MAX_TEXT {
            return Err(Reason::XfccMalformed);
        }
        let mut before = elements(text)?;
        let last = before.pop().ok_or(Reason::XfccMalformed)?;
        Ok(Self { last, before })
    }

    /// # Errors
    /// `XfccMismatch` when the last element is about another certificate than that of this SHA-256.
    pub fn is_about(&self, sha256: &[u8]) -> Result<(), Reason> {
        let hash = self.last.only("hash")?.ok_or(Reason::XfccMismatch)?;
        let hash = hex::decode(hash).map_err(|_| Reason::XfccMalformed)?;
        verify_slices_are_equal(&hash, sha256).map_err(|_| Reason::XfccMismatch)
    }

    /// The intermediates that the last element carries for `leaf`; none where Envoy was not told to send a chain.
    ///
    /// # Errors
    /// `XfccMismatch` when the last element is about another leaf; `XfccMalformed` when its chain cannot be read.
    pub fn intermediates(&self, leaf: &CertificateDer<'_>) -> Result<Vec<CertificateDer<'static>>, Reason> {
        self.is_about(digest::digest(&digest::SHA256, leaf).as_ref())?;
        let Some(chain) = self.last.only("chain")? else { return Ok(Vec::new()) };
        let pem = percent_decode_str(chain).decode_utf8().map_err(|_| Reason::XfccMalformed)?;
        let mut certificates = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            certificates.push(certificate.map_err(|_| Reason::XfccMalformed)?);
            if certificates.len() > MAX_CHAIN {
                return Err(Reason::XfccMalformed);
            }
        }
        match certificates.split_first() {
            Some((first, rest)) if first == leaf => Ok(rest.to_vec()),
            Some(_) => Err(Reason::XfccMismatch),
            None => Err(Reason::XfccMalformed),
        }
    }

    /// What the proxies before this one have said, the first of them first.
    pub fn forwarded(&self) -> Vec<Forwarded> {
        let all = |element: &Element<'_>, key| element.values(key).map(str::to_owned).collect();
        let first = |element: &Element<'_>, key| element.values(key).next().map(str::to_owned);
        let read = |element: &Element<'_>| Forwarded {
            by: all(element, "by"),
            hash: first(element, "hash"),
            subject: first(element, "subject"),
            uri: all(element, "uri"),
            dns: all(element, "dns"),
        };
        self.before.iter().map(read).collect()
    }
}

/// One element: its pairs, as they stand there.
#[derive(Debug, Default, PartialEq, Eq)]
struct Element<'t>(Vec<(&'t str, Cow<'t, str>)>);

impl Element<'_> {
    /// The values of a key, in whatever case it is written.
    fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| &**value)
    }

    /// The value of a key that may stand once.
    fn only(&self, key: &str) -> Result<Option<&str>, Reason> {
        let mut values = self.values(key);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => Err(Reason::XfccMalformed),
        }
    }
}

/// All elements, in order. Each is read to its end, since a quote that one leaves open would swallow the next.
fn elements(text: &str) -> Result<Vec<Element<'_>>, Reason> {
    let (mut elements, mut element, mut rest) = (Vec::new(), Element::default(), text);
    loop {
        let (key, after) = rest.trim_start_matches(' ').split_once('=').ok_or(Reason::XfccMalformed)?;
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Reason::XfccMalformed);
        }
        let (value, after) = value(after).ok_or(Reason::XfccMalformed)?;
        element.0.push((key, value));
        if let Some(next) = after.strip_prefix(';') {
            rest = next;
            continue;
        }
        elements.push(std::mem::take(&mut element));
        match after.strip_prefix(',') {
            Some(next) if elements.len() < MAX_ELEMENTS => rest = next,
            None if after.is_empty() => return Ok(elements),
            _ => return Err(Reason::XfccMalformed),
        }
    }
}

/// A value, and what follows it. A chain is some kilobytes long and read at each call, so that it is looked through for
/// what may end it and not copied.
fn value(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = memchr3(b';', b',', b'"', text.as_bytes()).unwrap_or(text.len());
        let (value, after) = text.split_at_checked(end)?;
        return (!after.starts_with('"')).then_some((Cow::Borrowed(value), after));
    };
    let (mut value, mut rest) = (Cow::Borrowed(""), quoted);
    loop {
        let (plain, from) = rest.split_at_checked(memchr2(b'"', b'\\', rest.as_bytes())?)?;
        // The first piece is borrowed, and owned once there is another.
        value += plain;
        if let Some(after) = from.strip_prefix('"') {
            return Some((value, after));
        }
        let mut escaped = from.strip_prefix('\\')?.chars();
        value.to_mut().push(escaped.next()?);
        rest = escaped.as_str();
    }
}

#[cfg(test)]
mod tests;
