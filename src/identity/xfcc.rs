//! `x-forwarded-client-cert` as a carrier of intermediates, and of nothing else: Envoy sends the leaf alone in
//! `source.certificate`, and the chain that came with it only in this header. An element counts only if it speaks of the
//! very leaf that Envoy took on this connection, so whoever forges it gains nothing: what it brings is verified
//! against the trust bundle like any other certificate.
//!
//! The form is Envoy's (`x-forwarded-client-cert` in its HTTP connection manager): elements separated by commas, each
//! `key=value` pairs separated by semicolons, a value in double quotes where it holds one of `,;="`, with `\"` for a
//! quote in it. The last element is the one that this Envoy added.

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest};
use percent_encoding::percent_decode_str;
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::verdict::Reason;

/// Longest header that is looked at, in bytes.
pub const MAX_TEXT: usize = 64 * 1024;
/// Most elements: one for each proxy on the way.
const MAX_ELEMENTS: usize = 16;
/// Most certificates of a chain, the leaf among them.
const MAX_CHAIN: usize = 8;

/// The intermediates that the last element carries for `leaf`; none where Envoy was not told to send a chain.
///
/// # Errors
/// `XfccMalformed` when the header is not of Envoy's form; `XfccMismatch` when the last element is about another leaf.
pub fn intermediates(text: &str, leaf: &CertificateDer<'_>) -> Result<Vec<CertificateDer<'static>>, Reason> {
    let element = last(text)?;
    let hash = element.only("hash")?.ok_or(Reason::XfccMismatch)?;
    let hash = hex::decode(hash).map_err(|_| Reason::XfccMalformed)?;
    let own = digest::digest(&digest::SHA256, leaf);
    verify_slices_are_equal(&hash, own.as_ref()).map_err(|_| Reason::XfccMismatch)?;
    let Some(chain) = element.only("chain")? else { return Ok(Vec::new()) };
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

/// One element: its pairs, keys in lower case.
#[derive(Debug, Default, PartialEq, Eq)]
struct Element(Vec<(String, String)>);

impl Element {
    /// The value of a key that may stand once.
    fn only(&self, key: &str) -> Result<Option<&str>, Reason> {
        let mut values = self.0.iter().filter(|(name, _)| name == key).map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => Err(Reason::XfccMalformed),
        }
    }
}

fn last(text: &str) -> Result<Element, Reason> {
    if text.len() > MAX_TEXT {
        return Err(Reason::XfccMalformed);
    }
    elements(text)?.pop().ok_or(Reason::XfccMalformed)
}

/// Where the reader stands within an element.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Key,
    /// Behind `=`, before anything of the value.
    Start,
    Plain,
    Quoted,
    /// Behind a backslash within quotes.
    Escaped,
    /// Behind the closing quote.
    Closed,
}

/// All elements, in order. Each is read to its end, since a quote that one leaves open would swallow the next.
fn elements(text: &str) -> Result<Vec<Element>, Reason> {
    let mut elements = Vec::new();
    let (mut element, mut key, mut value, mut at) = (Element::default(), String::new(), String::new(), At::Key);
    // A comma at the end closes the last element too.
    for c in text.chars().chain([',']) {
        at = match (at, c) {
            (At::Key, '=') if !key.is_empty() => At::Start,
            (At::Key, c) if c.is_ascii_alphanumeric() => {
                key.push(c.to_ascii_lowercase());
                At::Key
            }
            (At::Key, ' ') if key.is_empty() => At::Key,
            (At::Start, '"') => At::Quoted,
            (At::Quoted, '"') => At::Closed,
            (At::Quoted, '\\') => At::Escaped,
            (At::Quoted | At::Escaped, c) => {
                value.push(c);
                At::Quoted
            }
            (At::Start | At::Plain | At::Closed, ';' | ',') => {
                element.0.push((std::mem::take(&mut key), std::mem::take(&mut value)));
                if c == ',' {
                    elements.push(std::mem::take(&mut element));
                }
                At::Key
            }
            (At::Start | At::Plain, c) if c != '"' => {
                value.push(c);
                At::Plain
            }
            _ => return Err(Reason::XfccMalformed),
        };
        if elements.len() > MAX_ELEMENTS {
            return Err(Reason::XfccMalformed);
        }
    }
    match at {
        At::Key => Ok(elements),
        _ => Err(Reason::XfccMalformed),
    }
}

#[cfg(test)]
mod tests;
