//! No secret of a seeded request survives, and what is no secret does.

use serde_json::json;

use super::*;

fn mask(config: &config::Mask) -> Mask {
    Mask::new(config).expect("a mask")
}

fn masked(mask: &Mask, input: &Value) -> Value {
    let mut document = input.clone();
    mask.walk("", "", &mut document, &mask.replacer(None));
    document
}

fn headers(headers: &Value) -> Value {
    json!({"attributes": {"request": {"http": {"headers": headers}}}})
}

fn header_list(name: &str, field: &str, value: &str) -> Value {
    json!({"attributes": {"request": {"http": {"headerMap": {"headers": [
        {"key": ":method", field: "R0VU"}, {"key": name, field: value}, {"key": "x-plain", field: "cGxhaW4="},
    ]}}}}})
}

fn http(member: &str, value: &Value) -> Value {
    json!({"attributes": {"request": {"http": {member: value}}}})
}

#[test]
fn d60_no_secret_survives() {
    let secret = "s3cr3t-value";
    let encoded = STANDARD.encode(secret);
    let path = |text: &str| http("path", &json!(text.replace('*', secret)));
    let mut inputs = vec![
        header_list("Authorization", "rawValue", &encoded),
        header_list("cookie", "value", secret),
        header_list(":path", "rawValue", &STANDARD.encode(format!("/a?token={secret}"))),
        headers(&json!({":path": format!("/a?b=1&access_token={secret}")})),
        headers(&json!({"referer": format!("https://h/x?code={secret}#id_token={secret}")})),
        headers(&json!({"x-forwarded-client-cert": format!("By=a;Cert=\"{secret}\"")})),
        headers(&json!({"token": secret})),
        http("body", &json!(secret)),
        http("rawBody", &json!(encoded)),
        http("query", &json!(format!("password={secret}"))),
        path("/a?password=*"),
        path("/a?b=1&%74oken=*&c=2"),
        path("/a?b=1;api_key=*"),
        path("/a?x?secret=*"),
        path("/cb#id_token=*"),
        json!({"attributes": {"source": {"certificate": secret}}}),
        json!({"parsed_query": {"password": [secret, secret]}}),
        json!({"attributes": {"contextExtensions": {"api-key": secret}}}),
        json!({"attributes": {"metadataContext": {"filterMetadata": {"ns": {"refreshToken": secret}}}}}),
        json!({"parsed_body": [{"deep": [{"Client_Secret": {"really": {"deep": secret}}}]}]}),
        json!({"parsed_body": {"user": {"PASSWORD": secret, "secret": [1, [secret]]}}}),
    ];
    let long = "x-".to_owned() + &"y".repeat(MAX_NAME) + "-token";
    for name in HEADERS.iter().copied().chain([long.as_str(), "workload-identity-token", "x-vault-token", "X-Client-Secret"]) {
        inputs.push(headers(&json!({name: secret})));
        inputs.push(headers(&json!({name: [secret, "other"]})));
        inputs.push(header_list(name, "rawValue", &encoded));
    }
    let others = ["new_password", "user[password]", "user.password", "X-Amz-Signature", "access_token[]", "SAMLResponse", &long];
    for name in NAMES.iter().chain(&NAME_ENDINGS).chain(&others) {
        inputs.push(json!({"parsed_body": {*name: secret}}));
        inputs.push(json!({"parsed_query": {*name: [secret]}}));
        inputs.push(path(&format!("/a?{name}=*")));
    }
    let mask = mask(&config::Mask::default());
    for input in inputs {
        let text = masked(&mask, &input).to_string();
        assert!(!text.contains("s3cr3t") && !text.contains(&encoded), "{input}\n{text}");
        let tail = STANDARD.encode(format!("/a?token={secret}"));
        assert!(!text.contains(&tail), "{input}\n{text}");
    }
}

#[test]
fn a_number_under_a_secret_name_is_masked_too() {
    let mask = mask(&config::Mask::default());
    let masked = masked(&mask, &json!({"parsed_body": {"password": 1234, "amount": 5, "token": null}}));
    assert_eq!(masked, json!({"parsed_body": {"password": "masked", "amount": 5, "token": "masked"}}));
}

#[test]
fn what_is_no_secret_stays_as_it_is() {
    let mask = mask(&config::Mask::default());
    for input in [
        headers(&json!({"user-agent": "curl", "x-request-id": "r", "x-tokens": "3", ":path": "/a?b=1&tokenizer=x"})),
        header_list("x-request-id", "rawValue", "cGxhaW4="),
        http("path", &json!("/token/password?page=2")),
        http("path", &json!("/a?")),
        http("path", &json!("/a?=x&&b")),
        json!({"parsed_body": {"secretary": "Ann", "postcode": "1"}, "parsed_path": ["token", "x"]}),
        json!({"token": {"claims": {"sub": "x"}}, "tokens": [{"issuer": "i"}], "parsed_body": null}),
    ] {
        assert_eq!(masked(&mask, &input), input);
    }
}

#[test]
fn equal_secrets_stay_equal_under_one_key_and_only_there() {
    let mask_a = mask(&config::Mask::default());
    let input = json!({
        "attributes": {"request": {"http": {
            "headers": {"authorization": "Bearer x y"},
            "headerMap": {"headers": [{"key": "authorization", "rawValue": STANDARD.encode("Bearer x y")}]},
            "path": "/a?token=Bearer+x%20y",
        }}},
        "parsed_query": {"token": ["Bearer x y"]},
    });
    let digest = mask_a.digest(b"Bearer x y");
    let http = json!({
        "headers": {"authorization": digest},
        "headerMap": {"headers": [{"key": "authorization", "rawValue": digest}]},
        "path": format!("/a?token={digest}"),
    });
    let all = json!({"attributes": {"request": {"http": http}}, "parsed_query": {"token": [digest]}});
    assert_eq!(masked(&mask_a, &input), all);
    assert_eq!(digest.len(), "hmac-sha256:".len() + 32);
    assert_ne!(mask_a.digest(b"Bearer x z"), digest);
    assert_ne!(mask(&config::Mask::default()).digest(b"Bearer x y"), digest);
}

#[test]
fn a_certificate_is_known_by_its_sha256() {
    let mask = mask(&config::Mask::default());
    let pem = "-----BEGIN%20CERTIFICATE-----%0AAAEC%0A-----END%20CERTIFICATE-----%0A";
    let masked = masked(&mask, &json!({"attributes": {"source": {"certificate": pem}}}));
    let sha256 = "sha256:ae4b3280e56e2faf83f414a6e3dabe9d5fbe18976544c05fed121accb85b53fc";
    assert_eq!(masked, json!({"attributes": {"source": {"certificate": sha256}}}));
}

#[test]
fn a_result_is_masked_like_an_input() {
    let mask = mask(&config::Mask::default());
    let mut result = json!({
        "allowed": false,
        "headers": {"set-cookie": "a=1", "location": "/login?token=1", "x-plain": "p"},
        "response_headers_to_add": {"authorization": "Bearer"},
        "dynamic_metadata": {"session_token": "x"},
        "password": "p",
        "body": "no",
    });
    mask.json(&mut result);
    let expected = json!({
        "allowed": false,
        "headers": {"set-cookie": mask.digest(b"a=1"), "location": format!("/login?token={}", mask.digest(b"1")), "x-plain": "p"},
        "response_headers_to_add": {"authorization": mask.digest(b"Bearer")},
        "dynamic_metadata": {"session_token": mask.digest(b"x")},
        "password": mask.digest(b"p"),
        "body": "no",
    });
    assert_eq!(result, expected);
}

#[test]
fn the_configured_names_are_added_and_the_built_in_ones_can_be_off() {
    let own = config::Mask { headers: vec!["X-Badge".to_owned()], names: vec!["pin".to_owned()], ..config::Mask::default() };
    let input = json!({"attributes": {"request": {"http": {
        "headers": {"x-badge": "b", "cookie": "c"}, "body": "t", "path": "/?pin=1&token=2",
    }}}});
    let more = masked(&mask(&own), &input).to_string();
    assert!(!more.contains("\"b\"") && !more.contains("\"c\"") && !more.contains("pin=1") && !more.contains("token=2"), "{more}");
    let off = masked(&mask(&config::Mask { off: true, ..own }), &input).to_string();
    assert!(!off.contains("\"b\"") && !off.contains("pin=1"), "{off}");
    assert!(off.contains("\"c\"") && off.contains("\"t\"") && off.contains("token=2"), "{off}");
}

#[test]
fn a_key_comes_from_its_file_and_is_never_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    let with = || Mask::new(&config::Mask { key_file: Some(path.clone()), ..config::Mask::default() });
    assert!(matches!(with(), Err(MaskError::Unreadable { .. })));
    std::fs::write(&path, [b'k'; 31]).expect("written");
    assert!(matches!(with(), Err(MaskError::TooShort { length: 31, .. })));
    std::fs::write(&path, [b'k'; 32]).expect("written");
    let mask = with().expect("a mask");
    assert_eq!(mask.digest(b"x"), with().expect("a mask").digest(b"x"));
    assert!(!format!("{mask:?}").contains("kkk"));
}
