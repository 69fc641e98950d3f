//! `crypto.*` as far as digests go: hashes and keyed hashes of a text, in lower-case hex. MD5 and SHA-1 are for
//! fingerprints that others make, and prove nothing.

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest, hmac};
use hmac_md5::Mac as _;
use md5::Digest as _;
use regorus::Value;

use super::{Builtin, Fault, text_operand};

pub(super) const CRYPTO: &[Builtin] = &[
    Builtin { name: "crypto.md5", arity: 1, run: |args| text_operand(args, 0).map(|text| shown(&md5::Md5::digest(text))) },
    Builtin { name: "crypto.sha1", arity: 1, run: |args| hash(args, &digest::SHA1_FOR_LEGACY_USE_ONLY) },
    Builtin { name: "crypto.sha256", arity: 1, run: |args| hash(args, &digest::SHA256) },
    Builtin { name: "crypto.hmac.md5", arity: 2, run: keyed_md5 },
    Builtin { name: "crypto.hmac.sha1", arity: 2, run: |args| keyed(args, hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY) },
    Builtin { name: "crypto.hmac.sha256", arity: 2, run: |args| keyed(args, hmac::HMAC_SHA256) },
    Builtin { name: "crypto.hmac.sha512", arity: 2, run: |args| keyed(args, hmac::HMAC_SHA512) },
    Builtin { name: "crypto.hmac.equal", arity: 2, run: equal },
];

fn shown(bytes: &[u8]) -> Value {
    Value::from(hex::encode(bytes))
}

fn hash(args: &[Value], algorithm: &'static digest::Algorithm) -> Result<Value, Fault> {
    text_operand(args, 0).map(|text| shown(digest::digest(algorithm, text.as_bytes()).as_ref()))
}

fn keyed(args: &[Value], algorithm: hmac::Algorithm) -> Result<Value, Fault> {
    let (text, key) = (text_operand(args, 0)?, text_operand(args, 1)?);
    Ok(shown(hmac::sign(&hmac::Key::new(algorithm, key.as_bytes()), text.as_bytes()).as_ref()))
}

fn keyed_md5(args: &[Value]) -> Result<Value, Fault> {
    let (text, key) = (text_operand(args, 0)?, text_operand(args, 1)?);
    let keyed = <hmac_md5::Hmac<md5::Md5> as hmac_md5::KeyInit>::new_from_slice(key.as_bytes());
    let mut keyed = keyed.map_err(|_| Fault::from("the key cannot be used"))?;
    keyed.update(text.as_bytes());
    Ok(shown(&keyed.finalize().into_bytes()))
}

/// In a time that does not tell where the two differ.
fn equal(args: &[Value]) -> Result<Value, Fault> {
    let (a, b) = (text_operand(args, 0)?, text_operand(args, 1)?);
    Ok(Value::Bool(verify_slices_are_equal(a.as_bytes(), b.as_bytes()).is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_standards() {
        let call = |name: &str, args: &[&str]| {
            let args: Vec<Value> = args.iter().map(|arg| Value::from(*arg)).collect();
            let builtin = CRYPTO.iter().find(|builtin| builtin.name == name).unwrap();
            (builtin.run)(&args).unwrap().to_string()
        };
        for (name, args, expected) in [
            ("crypto.md5", &["abc"][..], "\"900150983cd24fb0d6963f7d28e17f72\""),
            ("crypto.sha1", &["abc"], "\"a9993e364706816aba3e25717850c26c9cd0d89d\""),
            ("crypto.sha256", &["abc"], "\"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\""),
            ("crypto.hmac.md5", &["what do ya want for nothing?", "Jefe"], "\"750c783e6ab0b503eaa86e310a5db738\""),
            (
                "crypto.hmac.sha256",
                &["what do ya want for nothing?", "Jefe"],
                "\"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843\"",
            ),
            ("crypto.hmac.equal", &["a", "a"], "true"),
            ("crypto.hmac.equal", &["a", "ab"], "false"),
        ] {
            assert_eq!(call(name, args), expected, "{name}");
        }
    }
}
