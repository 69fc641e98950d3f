//! Small parts of the claims; whole tokens are judged in `tokens/tests`.

use serde_json::json;

use super::*;

fn jws(claims: &Value) -> String {
    let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.c2ln", encode(r#"{"alg":"ES256"}"#), encode(&claims.to_string()))
}

#[test]
fn a_date_is_a_number_and_nothing_else() {
    for (written, expected) in [
        (json!(1), Ok(Some(1))),
        (json!(1.9), Ok(Some(1))),
        (json!(-5), Ok(Some(-5))),
        (json!("1"), Err(Reason::TokenClaims)),
        (json!(null), Err(Reason::TokenClaims)),
        (json!([1]), Err(Reason::TokenClaims)),
        (json!(true), Err(Reason::TokenClaims)),
    ] {
        let text = jws(&json!({ "exp": written }));
        assert_eq!(date(&Jws::read(&text).unwrap(), "exp"), expected, "{written}");
    }
    assert_eq!(date(&Jws::read(&jws(&json!({}))).unwrap(), "exp"), Ok(None));
}

#[test]
fn a_confirmation_that_cannot_be_checked_is_a_failed_one() {
    let hash = BASE64_URL_SAFE_NO_PAD.encode([7; 32]);
    for (name, confirmation, expected) in [
        ("none", json!({}), Ok((false, false))),
        ("certificate", json!({"cnf": {"x5t#S256": hash}}), Ok((true, false))),
        ("key", json!({"cnf": {"jkt": hash}}), Ok((false, true))),
        ("both", json!({"cnf": {"jkt": hash, "x5t#S256": hash}}), Ok((true, true))),
        ("with an unknown one beside", json!({"cnf": {"jkt": hash, "kid": "a"}}), Ok((false, true))),
        ("unknown alone", json!({"cnf": {"jwk": {}}}), Err(Reason::TokenBinding)),
        ("empty", json!({"cnf": {}}), Err(Reason::TokenBinding)),
        ("no object", json!({"cnf": "x"}), Err(Reason::TokenBinding)),
        ("null", json!({"cnf": null}), Err(Reason::TokenBinding)),
        ("short hash", json!({"cnf": {"x5t#S256": "AAAA"}}), Err(Reason::TokenBinding)),
        ("no text", json!({"cnf": {"x5t#S256": 1}}), Err(Reason::TokenBinding)),
        ("padded", json!({"cnf": {"x5t#S256": format!("{hash}=")}}), Err(Reason::TokenBinding)),
    ] {
        let text = jws(&confirmation);
        let found = super::confirmation(&Jws::read(&text).unwrap());
        assert_eq!(found.map(|found| (found.certificate.is_some(), found.key.is_some())), expected, "{name}");
    }
}
