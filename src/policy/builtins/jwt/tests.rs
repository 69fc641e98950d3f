//! Tokens that hold, and the ways in which others do not.

use aws_lc_rs::{
    encoding::AsBigEndian,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    },
};
use serde_json::json;

use super::*;
use crate::policy::builtins::context;

/// RFC 7515 appendix A.2.1.
fn rsa() -> Json {
    json!({
        "kty": "RSA",
        "n": concat!(
            "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SF",
            "d2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo",
            "7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkM",
            "Ls91kzk2PAcDTW9gb54h4FRWyuXpoQ",
        ),
        "e": "AQAB",
        "d": concat!(
            "Eq5xpGnNCivDflJsRQBXHx1hdR1k6Ulwe2JZD50LpXyWPEAeP88vLNO97IjlA7_GQ5sLKMgvfTeXZx9SE-7YwVol2NXOoAJe46sui395",
            "IW_GO-pWJ1O0BkTGoVEn2bKVRUCgu-GjBVaYLU6f3l9kJfFNS3E0QbVdxzubSu3Mkqzjkn439X0M_V51gfpRLI9JYanrC4D4qAdGcopV",
            "_0ZHHzQlBjudU2QvXt4ehNYTCBr6XCLQUShb1juUO1ZdiYoFaFQT5Tw8bGUl_x_jTj3ccPDVZFD9pIuhLhBOneufuBiB4cS98l2SR_RQ",
            "yGWSeWjnczT0QU91p1DhOVRuOopznQ",
        ),
        "p": concat!(
            "4BzEEOtIpmVdVEZNCqS7baC4crd0pqnRH_5IB3jw3bcxGn6QLvnEtfdUdiYrqBdss1l58BQ3KhooKeQTa9AB0Hw_Py5PJdTJNPY8cQn7",
            "ouZ2KKDcmnPGBY5t7yLc1QlQ5xHdwW1VhvKn-nXqhJTBgIPgtldC-KDV5z-y2XDwGUc",
        ),
        "q": concat!(
            "uQPEfgmVtjL0Uyyx88GZFF1fOunH3-7cepKmtH4pxhtCoHqpWmT8YAmZxaewHgHAjLYsp1ZSe7zFYHj7C6ul7TjeLQeZD_YwD66t62wD",
            "mpe_HlB-TnBA-njbglfIsRLtXlnDzQkv5dTltRJ11BKBBypeeF6689rjcJIDEz9RWdc",
        ),
        "dp": concat!(
            "BwKfV3Akq5_MFZDFZCnW-wzl-CCo83WoZvnLQwCTeDv8uzluRSnm71I3QCLdhrqE2e9YkxvuxdBfpT_PI7Yz-FOKnu1R6HsJeDCjn12S",
            "k3vmAktV2zb34MCdy7cpdTh_YVr7tss2u6vneTwrA86rZtu5Mbr1C1XsmvkxHQAdYo0",
        ),
        "dq": concat!(
            "h_96-mK1R_7glhsum81dZxjTnYynPbZpHziZjeeHcXYsXaaMwkOlODsWa7I9xXDoRwbKgB719rrmI2oKr6N3Do9U0ajaHF-NKJnwgjMd",
            "2w9cjz3_-kyNlxAr2v4IKhGNpmM5iIgOS1VZnOZ68m6_pbLBSp3nssTdlqvd0tIiTHU",
        ),
        "qi": concat!(
            "IYd7DHOhrWvxkwPQsRM2tOgrjbcrfvtQJipd-DlcxyVuuM9sQLdgjVk2oy26F0EmpScGLq2MowX7fhd_QJQ3ydy5cY7YIBi87w93IKLE",
            "dfnbJtoOPLUW0ITrJReOgo1cq9SbsxYawBgfp_gh6A5603k2-ZQwVK0JKSHuLFkuQ3U",
        ),
    })
}

/// RFC 7515 appendix A.3.1.
fn p256() -> Json {
    json!({
        "kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
    })
}

/// RFC 8037 appendix A.1.
fn ed25519() -> Json {
    json!({
        "kty": "OKP", "crv": "Ed25519",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
    })
}

/// A fresh key on a curve.
fn drawn(crv: &str) -> Json {
    let algorithm = match crv {
        "P-256" => &ECDSA_P256_SHA256_FIXED_SIGNING,
        "P-384" => &ECDSA_P384_SHA384_FIXED_SIGNING,
        _ => &ECDSA_P521_SHA512_FIXED_SIGNING,
    };
    let pair = EcdsaKeyPair::generate(algorithm).unwrap();
    let point = pair.public_key().as_ref();
    let (x, y) = point[1..].split_at((point.len() - 1) / 2);
    let secret = pair.private_key().as_be_bytes().unwrap();
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    json!({"kty": "EC", "crv": crv, "x": encode(x), "y": encode(y), "d": encode(secret.as_ref())})
}

fn secret() -> Json {
    json!({"kty": "oct", "k": "c2VjcmV0"})
}

fn public(key: &Json) -> Json {
    let mut key = key.clone();
    for name in ["d", "p", "q", "dp", "dq", "qi"] {
        key.as_object_mut().unwrap().remove(name);
    }
    key
}

fn with(mut key: Json, members: &Json) -> Json {
    key.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    key
}

fn call(name: &str, args: &[Json]) -> Result<Json, Fault> {
    let builtin = JWT.iter().find(|builtin| builtin.name == name).unwrap();
    let args: Vec<Value> = args.iter().cloned().map(Value::from).collect();
    (builtin.run)(&args).map(|value| serde_json::to_value(value).unwrap())
}

fn sign(header: Json, payload: Json, key: &Json) -> String {
    let token = call("io.jwt.encode_sign", &[header, payload, key.clone()]);
    token.unwrap_or_else(|fault| panic!("{fault:?} {key}")).as_str().unwrap().to_owned()
}

/// Whether `decode_verify` finds that the token holds; none where it has no answer.
fn holds(token: &str, constraints: Json) -> Option<bool> {
    let answer = call("io.jwt.decode_verify", &[token.into(), constraints]).ok()?;
    assert_eq!(answer[0] == false, answer == json!([false, {}, {}]), "{answer}");
    answer[0].as_bool()
}

/// The token with one character of a part exchanged.
fn tampered(token: &str, part: usize) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let other = if parts[part].starts_with('A') { "B" } else { "A" };
    parts[part].replace_range(..1, other);
    parts.join(".")
}

#[test]
fn every_algorithm_signs_and_verifies_and_a_changed_token_fails() {
    let (p384, other384) = (drawn("P-384"), drawn("P-384"));
    let (other_rsa, other_secret) = (with(rsa(), &json!({"e": "Aw"})), json!({"kty": "oct", "k": "b3RoZXI"}));
    let (other256, other_ed) = (drawn("P-256"), json!({"kty": "OKP", "crv": "Ed25519", "x": p256()["x"]}));
    let (p521, other521) = (drawn("P-521"), drawn("P-521"));
    for (algorithm, key, other) in [
        ("HS256", secret(), &other_secret),
        ("HS384", secret(), &other_secret),
        ("HS512", secret(), &other_secret),
        ("RS256", rsa(), &other_rsa),
        ("RS384", rsa(), &other_rsa),
        ("RS512", rsa(), &other_rsa),
        ("PS256", rsa(), &other_rsa),
        ("PS384", rsa(), &other_rsa),
        ("PS512", rsa(), &other_rsa),
        ("ES256", p256(), &other256),
        ("ES384", p384, &other384),
        ("ES512", p521, &other521),
        ("EdDSA", ed25519(), &other_ed),
    ] {
        let token = sign(json!({"alg": algorithm}), json!({"sub": "a"}), &key);
        let constraints = |key: &Json| json!({"cert": public(key).to_string(), "alg": algorithm});
        assert_eq!(holds(&token, constraints(&key)), Some(true), "{algorithm}");
        assert_eq!(holds(&token, constraints(other)), Some(false), "{algorithm} by another key");
        let header = sign(json!({"alg": algorithm, "x": 1}), json!({"sub": "a"}), &key);
        let mixed = format!("{}.{}", header.split_once('.').unwrap().0, token.split_once('.').unwrap().1);
        assert_eq!(holds(&mixed, constraints(&key)), Some(false), "{algorithm} with another header");
        assert_eq!(holds(&tampered(&token, 2), constraints(&key)), Some(false), "{algorithm} with another signature");
        assert_eq!(holds(&tampered(&token, 1), constraints(&key)), Some(false), "{algorithm} with another payload");
        let name = format!("io.jwt.verify_{}", algorithm.to_lowercase());
        let key = if algorithm.starts_with("HS") { "secret".to_owned() } else { public(&key).to_string() };
        assert_eq!(call(&name, &[token.as_str().into(), key.as_str().into()]).ok(), Some(true.into()), "{name}");
        let wrong = if algorithm.starts_with("HS") { "other".to_owned() } else { public(other).to_string() };
        assert_eq!(call(&name, &[token.as_str().into(), wrong.into()]).ok(), Some(false.into()), "{name}");
        assert_eq!(call(&name, &[tampered(&token, 2).into(), key.into()]).ok(), Some(false.into()), "{name}");
    }
}

#[test]
fn a_public_key_is_never_taken_for_a_secret_and_none_is_no_algorithm() {
    let jwk = public(&rsa()).to_string();
    let as_secret = json!({"kty": "oct", "k": BASE64_URL_SAFE_NO_PAD.encode(&jwk)});
    let modulus_as_secret = json!({"kty": "oct", "k": rsa()["n"]});
    for key in [&as_secret, &modulus_as_secret] {
        let forged = sign(json!({"alg": "HS256"}), json!({}), key);
        assert_eq!(holds(&forged, json!({"cert": jwk})), Some(false));
        assert_eq!(holds(&forged, json!({"cert": json!({"keys": [public(&rsa())]}).to_string()})), Some(false));
        assert_eq!(call("io.jwt.verify_rs256", &[forged.into(), jwk.as_str().into()]).ok(), Some(false.into()));
    }
    let point_as_secret = json!({"kty": "oct", "k": ed25519()["x"]});
    let forged = sign(json!({"alg": "HS256"}), json!({}), &point_as_secret);
    assert_eq!(holds(&forged, json!({"cert": public(&ed25519()).to_string()})), Some(false));
    let part = |value: Json| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    for header in [json!({"alg": "none"}), json!({"alg": "None"}), json!({"alg": ""}), json!({}), json!({"alg": "HS1"})] {
        let token = format!("{}.{}.", part(header.clone()), part(json!({})));
        assert_eq!(holds(&token, json!({"cert": jwk})), Some(false), "{header}");
        assert_eq!(holds(&token, json!({"secret": "secret"})), Some(false), "{header}");
    }
    // A token of one asymmetric algorithm is none of another.
    let token = sign(json!({"alg": "RS256"}), json!({}), &rsa());
    for (name, expected) in [("rs256", true), ("rs384", false), ("ps256", false), ("es256", false), ("eddsa", false)] {
        let found = call(&format!("io.jwt.verify_{name}"), &[token.as_str().into(), jwk.as_str().into()]);
        assert_eq!(found.ok(), Some(expected.into()), "{name}");
    }
}

#[test]
fn claims_are_held_against_the_constraints() {
    context::begin(1_700_000_000_500_000_000);
    let key = secret();
    for (payload, constraints, expected) in [
        (json!({}), json!({}), Some(true)),
        (json!({"exp": 1_700_000_001}), json!({}), Some(true)),
        (json!({"exp": 1_700_000_000.5}), json!({}), Some(false)),
        (json!({"exp": 1_700_000_000}), json!({}), Some(false)),
        (json!({"exp": 1_700_000_000}), json!({"time": 1_699_999_999_999_000_000_u64}), Some(true)),
        (json!({"exp": 10}), json!({"time": 10_000_000_000_u64}), Some(false)),
        (json!({"exp": "1700000001"}), json!({}), None),
        (json!({"exp": null}), json!({}), None),
        (json!({"nbf": 1_700_000_000.5}), json!({}), Some(true)),
        (json!({"nbf": 1_700_000_001}), json!({}), Some(false)),
        (json!({"nbf": "0"}), json!({}), None),
        (json!({"iss": "a"}), json!({"iss": "a"}), Some(true)),
        (json!({"iss": "a"}), json!({"iss": "b"}), Some(false)),
        (json!({}), json!({"iss": "b"}), Some(false)),
        (json!({"iss": ["b"]}), json!({"iss": "b"}), None),
        (json!({"aud": "a"}), json!({"aud": "a"}), Some(true)),
        (json!({"aud": ["b", "a"]}), json!({"aud": "a"}), Some(true)),
        (json!({"aud": ["b", 1]}), json!({"aud": "a"}), Some(false)),
        (json!({"aud": "a"}), json!({}), Some(false)),
        (json!({}), json!({"aud": "a"}), Some(false)),
        (json!({"aud": {"a": "a"}}), json!({"aud": "a"}), Some(false)),
        (json!({}), json!({"alg": "HS256"}), Some(true)),
        (json!({}), json!({"alg": "HS512"}), Some(false)),
        (json!({}), json!({"time": -1}), None),
        (json!({}), json!({"time": "1"}), None),
        (json!({}), json!({"cert": "{\"keys\":[]}"}), None),
        (json!({}), json!({"secret": ""}), None),
        (json!({}), json!({"secret": 1}), None),
        (json!({}), json!({"leeway": 1}), None),
        (json!({}), json!({"jku": "x"}), None),
    ] {
        let token = sign(json!({"alg": "HS256"}), payload.clone(), &key);
        let constraints = with(json!({"secret": "secret"}), &constraints);
        assert_eq!(holds(&token, constraints.clone()), expected, "{payload} {constraints}");
    }
}

#[test]
fn headers_that_are_not_understood_do_not_hold() {
    for (header, expected) in [
        (json!({"crit": ["b64"], "b64": false}), Some(false)),
        (json!({"crit": ["alg"]}), Some(true)),
        (json!({"crit": ["absent"]}), Some(true)),
        (json!({"crit": []}), None),
        (json!({"crit": [1]}), None),
        (json!({"crit": "b64"}), None),
        (json!({"kid": 1}), None),
        (json!({"typ": 1}), None),
        (json!({"enc": "A128GCM"}), None),
        (json!({"jwk": public(&p256()), "x5u": "https://evil"}), Some(true)),
    ] {
        let token = sign(with(json!({"alg": "HS256"}), &header), json!({}), &secret());
        assert_eq!(holds(&token, json!({"secret": "secret"})), expected, "{header}");
    }
}

#[test]
fn a_named_key_counts_alone_and_others_by_their_algorithm() {
    let (first, second) = (drawn("P-256"), p256());
    let named = |key: &Json, id: &str| with(public(key), &json!({"kid": id}));
    let of = |key: &Json, algorithm: &str| with(public(key), &json!({"alg": algorithm}));
    let padded = |padding: &str| with(public(&first), &json!({"x": format!("{}{padding}", first["x"].as_str().unwrap())}));
    let token = sign(json!({"alg": "ES256", "kid": "k"}), json!({}), &first);
    for (keys, expected) in [
        (json!([named(&first, "k")]), Some(true)),
        (json!([named(&second, "k"), named(&first, "k")]), Some(false)),
        (json!([named(&first, "k"), named(&second, "k")]), Some(true)),
        (json!([named(&second, "k"), named(&first, "other")]), Some(false)),
        (json!([named(&second, "other"), named(&first, "another")]), Some(true)),
        (json!([public(&second), public(&first)]), Some(true)),
        (json!([of(&first, "ES256")]), Some(true)),
        (json!([of(&first, "ES384")]), Some(false)),
        (json!([with(named(&first, "k"), &json!({"alg": "ES384"}))]), Some(true)),
        (json!([of(&first, "ECDH-ES")]), Some(false)),
        (json!([of(&first, "unknown"), public(&first)]), None),
        (json!([{"kty": "new"}, public(&first)]), None),
        (json!([with(public(&first), &json!({"y": public(&second)["y"]}))]), None),
        (json!([{"kty": "OKP", "crv": "X25519", "x": first["x"]}, public(&first)]), Some(true)),
        (json!([padded("=")]), Some(true)),
        (json!([padded("==")]), None),
        (json!([]), Some(false)),
        (json!("no list"), None),
    ] {
        let found = holds(&token, json!({"cert": json!({"keys": keys}).to_string()}));
        assert_eq!(found, expected, "{keys}");
    }
    // A private key verifies what it signed, but is no public key.
    assert_eq!(holds(&token, json!({"cert": first.to_string()})), Some(true));
    assert_eq!(call("io.jwt.verify_es256", &[token.into(), first.to_string().into()]).ok(), Some(false.into()));
}

#[test]
fn nested_tokens_have_to_hold_one_by_one() {
    let inner = sign(json!({"alg": "HS256"}), json!({"sub": "a"}), &secret());
    let header = json!({"alg": "HS256", "typ": "x", "cty": "JWT"}).to_string();
    let raw = |inner: &str, key: &Json| {
        let token = call("io.jwt.encode_sign_raw", &[header.as_str().into(), inner.into(), key.to_string().into()]).unwrap();
        token.as_str().unwrap().to_owned()
    };
    let other = json!({"kty": "oct", "k": "b3RoZXI"});
    let foreign = sign(json!({"alg": "HS256"}), json!({"sub": "a"}), &other);
    for (token, expected) in [
        (raw(&inner, &secret()), Some(true)),
        (raw(&raw(&inner, &secret()), &secret()), Some(true)),
        (raw(&foreign, &secret()), Some(false)),
        (raw(&inner, &other), Some(false)),
        (raw("x", &secret()), None),
    ] {
        assert_eq!(holds(&token, json!({"secret": "secret"})), expected, "{token}");
    }
    let decoded = call("io.jwt.decode", &[raw(&inner, &other).into()]).unwrap();
    assert_eq!(decoded[1], json!({"sub": "a"}));
}

#[test]
fn what_is_no_token_has_no_answer() {
    let good = sign(json!({"alg": "HS256"}), json!({"a": "<&>"}), &secret());
    let (header, rest) = good.split_once('.').unwrap();
    for text in
        ["", "a", "a.b", "a.b.c.d", "a.b.c", "..", &format!("{header}.?.x"), &format!("{header}."), &format!("e30.{rest}.e30")]
    {
        for name in ["io.jwt.decode", "io.jwt.decode_verify", "io.jwt.verify_hs256"] {
            let more: &[Json] = match name {
                "io.jwt.decode" => &[],
                "io.jwt.verify_hs256" => &["secret".into()],
                _ => &[json!({"secret": "secret"})],
            };
            let args = [&[Json::from(text)], more].concat();
            let found = call(name, &args);
            // A signature is looked at before anything else is read.
            assert!(found.is_err() || (name == "io.jwt.verify_hs256" && found == Ok(false.into())), "{name} {text:?} {found:?}");
        }
    }
    let decoded = call("io.jwt.decode", &[good.into()]).unwrap();
    assert_eq!(decoded[0], json!({"alg": "HS256"}));
    assert_eq!(decoded[1], json!({"a": "<&>"}));
}

#[test]
fn only_a_key_that_is_made_for_the_algorithm_signs() {
    for (header, key, expected) in [
        (json!({"alg": "HS256"}), secret(), true),
        (json!({"alg": "ES256"}), p256(), true),
        (json!({"alg": "ES384"}), p256(), false),
        (json!({"alg": "ES256"}), drawn("P-521"), false),
        (json!({"alg": "RS256"}), with(rsa(), &json!({"q": rsa()["p"]})), false),
        (json!({"alg": "RS256"}), p256(), false),
        (json!({"alg": "HS256"}), rsa(), false),
        (json!({"alg": "HS256"}), ed25519(), false),
        (json!({"alg": "RS256"}), public(&rsa()), false),
        (json!({"alg": "EdDSA"}), with(ed25519(), &json!({"x": p256()["x"]})), false),
        (json!({"alg": "HS256"}), json!({"kty": "oct", "k": ""}), false),
        (json!({"alg": "HS256"}), json!({"keys": []}), false),
        (json!({"alg": "HS256"}), json!({"keys": [secret(), rsa()]}), true),
        (json!({"alg": "none"}), secret(), false),
        (json!({}), secret(), false),
    ] {
        let found = call("io.jwt.encode_sign", &[header.clone(), json!({}), key]);
        assert_eq!(found.is_ok(), expected, "{header} {found:?}");
    }
    let signed = call("io.jwt.encode_sign", &[json!({"alg": "HS256"}), json!({"b": "<", "a": 1}), secret()]).unwrap();
    let payload = signed.as_str().unwrap().split('.').nth(1).unwrap();
    assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap(), br#"{"a":1,"b":"\u003c"}"#);
}

#[test]
fn a_weak_key_ends_the_evaluation_only_where_no_other_key_verifies() {
    let weak = with(public(&rsa()), &json!({"n": BASE64_URL_SAFE_NO_PAD.encode([0x81; 128])}));
    let token = sign(json!({"alg": "RS256"}), json!({}), &rsa());
    let ask = |keys: Json| {
        context::begin(0);
        let found = holds(&token, json!({"cert": json!({"keys": keys}).to_string()}));
        (found, context::take_limit().is_some())
    };
    assert_eq!(ask(json!([weak])), (None, true));
    assert_eq!(ask(json!([weak, public(&rsa())])), (Some(true), false));
    assert_eq!(ask(json!([with(weak, &json!({"alg": "PS256"}))])), (Some(false), false));
    assert_eq!(ask(json!([public(&p256())])), (Some(false), false));
}
