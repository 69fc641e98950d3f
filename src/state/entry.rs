//! The bytes of an entry, and the chain that they make. In order, numbers with the highest byte first:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `DWL1` |
//! | 16 | id of the log |
//! | 8 | rev, counted from 1 |
//! | 32 | SHA-256 of the whole entry before; zeros in the first |
//! | 8 | name of the key: the beginning of the SHA-256 of its public half |
//! | 1, then so many | length of the kind, and the kind |
//! | all but the last 64 | body |
//! | 64 | Ed25519 signature of all before it, after [`CONTEXT`] |

use aws_lc_rs::digest;
use uuid::Uuid;

use super::{
    Entry, Epoch,
    key::{KEY_ID, SIGNATURE, SigningKey},
};

const MAGIC: &[u8; 4] = b"DWL1";
/// What is signed begins with it, so that a signature is good for nothing else.
const CONTEXT: &[u8] = b"doorward control log v1\0";
/// Kind of the first entry, which has no body.
pub(super) const BEGIN: &str = "begin";

/// The end of a chain: what the next entry has to fit to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) epoch: Epoch,
    /// SHA-256 of the last entry.
    pub(super) hash: [u8; digest::SHA256_OUTPUT_LEN],
}

/// Why an entry does not belong where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Another key than ours has signed it.
    OtherKey,
    Broken(&'static str),
}

impl Head {
    /// Before the first entry of a new log.
    pub(super) const fn new(log: Uuid) -> Self {
        Self { epoch: Epoch { log, rev: 0 }, hash: [0; digest::SHA256_OUTPUT_LEN] }
    }

    /// The bytes of the next entry, and the head after it.
    pub(super) fn next(&self, kind: &str, body: &[u8], key: &SigningKey) -> (Vec<u8>, Self) {
        let epoch = Epoch { rev: self.epoch.rev + 1, ..self.epoch };
        let kind = kind.as_bytes();
        let mut message = CONTEXT.to_vec();
        message.extend_from_slice(MAGIC);
        message.extend_from_slice(epoch.log.as_bytes());
        message.extend_from_slice(&epoch.rev.to_be_bytes());
        message.extend_from_slice(&self.hash);
        message.extend_from_slice(&key.id);
        message.push(u8::try_from(kind.len()).unwrap_or(u8::MAX));
        message.extend_from_slice(kind);
        message.extend_from_slice(body);
        let signature = key.sign(&message);
        let mut bytes = message.split_off(CONTEXT.len());
        bytes.extend_from_slice(&signature);
        let hash = sha256(&bytes);
        (bytes, Self { epoch, hash })
    }

    /// Takes the next entry, if it is the one that follows. The first one says which log this is.
    pub(super) fn follow(&mut self, bytes: &[u8], key: &SigningKey) -> Result<Entry, Fault> {
        let parsed = Parsed::read(bytes).ok_or(Fault::Broken("it is none of ours"))?;
        let rev = self.epoch.rev + 1;
        if parsed.key != key.id {
            return Err(Fault::OtherKey);
        }
        let message = [CONTEXT, parsed.signed].concat();
        if !key.has_signed(&message, parsed.signature) {
            return Err(Fault::Broken("its signature does not hold"));
        }
        let begins = self.epoch.rev == 0;
        if parsed.rev != rev || (parsed.log != self.epoch.log && !begins) || begins != (parsed.kind == BEGIN) {
            return Err(Fault::Broken("it belongs elsewhere"));
        }
        if parsed.previous != self.hash {
            return Err(Fault::Broken("it does not follow the one before"));
        }
        *self = Self { epoch: Epoch { log: parsed.log, rev }, hash: sha256(bytes) };
        Ok(Entry { rev, kind: parsed.kind.to_owned(), body: parsed.body.to_vec() })
    }
}

/// An entry, taken apart and not yet believed.
struct Parsed<'a> {
    log: Uuid,
    rev: u64,
    previous: [u8; digest::SHA256_OUTPUT_LEN],
    key: [u8; KEY_ID],
    kind: &'a str,
    body: &'a [u8],
    signed: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Parsed<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (signed, signature) = bytes.split_at_checked(bytes.len().checked_sub(SIGNATURE)?)?;
        let rest = signed.strip_prefix(MAGIC.as_slice())?;
        let (log, rest) = rest.split_first_chunk()?;
        let (rev, rest) = rest.split_first_chunk()?;
        let (previous, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first()?;
        let (kind, body) = rest.split_at_checked(usize::from(*length))?;
        Some(Self {
            log: Uuid::from_bytes(*log),
            rev: u64::from_be_bytes(*rev),
            previous: *previous,
            key: *key,
            kind: std::str::from_utf8(kind).ok()?,
            body,
            signed,
            signature,
        })
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; digest::SHA256_OUTPUT_LEN] {
    let mut hash = [0; digest::SHA256_OUTPUT_LEN];
    let digest = digest::digest(&digest::SHA256, bytes);
    hash.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_byte_of_an_entry_counts() {
        let (key, _) = SigningKey::make(Path::new("k")).unwrap();
        let start = Head::new(Uuid::now_v7());
        let (first, head) = start.next(BEGIN, b"", &key);
        let (second, _) = head.next("revoke", b"{\"a\":1}", &key);
        for (before, bytes) in [(start, first), (head, second.clone())] {
            assert!(before.clone().follow(&bytes, &key).is_ok());
            for at in 0..bytes.len() {
                for flip in [1, 0x80] {
                    let mut bytes = bytes.clone();
                    bytes[at] ^= flip;
                    assert!(before.clone().follow(&bytes, &key).is_err(), "byte {at}");
                }
            }
            for length in 0..bytes.len() {
                assert!(before.clone().follow(&bytes[..length], &key).is_err(), "{length} bytes");
            }
        }
        let (other, _) = SigningKey::make(Path::new("other")).unwrap();
        assert_eq!(head.clone().follow(&second, &other), Err(Fault::OtherKey));
    }

    #[test]
    fn an_entry_stands_in_one_place_of_one_log() {
        let (key, _) = SigningKey::make(Path::new("k")).unwrap();
        let (_, one) = Head::new(Uuid::now_v7()).next(BEGIN, b"", &key);
        let (_, other) = Head::new(Uuid::now_v7()).next(BEGIN, b"", &key);
        let (second, after) = one.next("revoke", b"1", &key);
        let (third, _) = after.next("revoke", b"2", &key);
        let (beside, _) = one.next("revoke", b"3", &key);
        let follow = |head: &Head, bytes: &[u8]| head.clone().follow(bytes, &key).map(|entry| entry.body);
        assert_eq!(follow(&after, &third), Ok(b"2".to_vec()));
        assert_eq!(follow(&one, &third), Err(Fault::Broken("it belongs elsewhere")));
        assert_eq!(follow(&other, &second), Err(Fault::Broken("it belongs elsewhere")));
        assert_eq!(follow(&after, &beside), Err(Fault::Broken("it belongs elsewhere")));
        let (_, fork) = one.next("revoke", b"4", &key);
        assert_eq!(follow(&fork, &third), Err(Fault::Broken("it does not follow the one before")));
        assert_eq!(follow(&Head::new(Uuid::nil()), &second), Err(Fault::Broken("it belongs elsewhere")));
    }
}
