//! `providers.aws.sign_req`: Signature Version 4 of a request to AWS, with the credentials and the time that the policy
//! hands over.

use std::collections::BTreeMap;

use aws_lc_rs::{digest, hmac};
use chrono::DateTime;
use regorus::Value;

use super::{Builtin, Fault, integer_operand, json, operand, uri};

pub(super) const AWS: &[Builtin] = &[Builtin { name: "providers.aws.sign_req", arity: 3, run: sign_request }];

/// Members that a request may have: those of `http.send`.
const MEMBERS: [&str; 28] = [
    "method",
    "url",
    "body",
    "enable_redirect",
    "force_json_decode",
    "force_yaml_decode",
    "headers",
    "raw_body",
    "tls_use_system_certs",
    "tls_ca_cert",
    "tls_ca_cert_file",
    "tls_ca_cert_env_variable",
    "tls_client_cert",
    "tls_client_cert_file",
    "tls_client_cert_env_variable",
    "tls_client_key",
    "tls_client_key_file",
    "tls_client_key_env_variable",
    "tls_insecure_skip_verify",
    "tls_server_name",
    "timeout",
    "cache",
    "force_cache",
    "force_cache_duration_seconds",
    "raise_error",
    "caching_mode",
    "max_retry_attempts",
    "cache_ignored_headers",
];
/// Headers that a proxy may change on the way, and that are not signed.
const UNSIGNED: [&str; 3] = ["authorization", "user-agent", "x-amzn-trace-id"];

struct Credentials<'a> {
    service: &'a str,
    region: &'a str,
    access_key: &'a str,
    secret_key: &'a str,
    session_token: &'a str,
}

/// The request with the headers that sign it.
fn sign_request(args: &[Value]) -> Result<Value, Fault> {
    let [request @ Value::Object(members), config @ Value::Object(_), _] = args else { return Err(operand(1, "object")) };
    let credentials = Credentials {
        service: required(config, "aws_service")?,
        region: required(config, "aws_region")?,
        access_key: required(config, "aws_access_key")?,
        secret_key: required(config, "aws_secret_access_key")?,
        session_token: member(config, "aws_session_token").and_then(text).unwrap_or_default(),
    };
    let time = i64::try_from(integer_operand(args, 2)?).ok().filter(|ns| *ns >= 0);
    let time = time.ok_or("operand 3 could not convert time_ns value into a unix timestamp")?;
    if members.keys().any(|name| !text(name).is_some_and(|name| MEMBERS.contains(&name))) {
        return Err("operand 1 invalid request parameters(s)".into());
    }
    let (url, method) = (required(request, "url")?, required(request, "method")?);
    let headers = headers(request)?;
    let body = body(request)?;
    let signs_body = match member(config, "disable_payload_signing") {
        None => true,
        Some(Value::Bool(disabled)) => !disabled,
        Some(_) => return Err("operand 2 invalid value for 'disable_payload_signing' in AWS config".into()),
    };
    let content = if signs_body { sha256(body.as_bytes()) } else { "UNSIGNED-PAYLOAD".to_owned() };
    let target = uri::target(url).map_err(|why| Fault(format!("parse {url:?}: {why}")))?;
    let signed = sign(&credentials, method, &target, &headers, &content, time);
    let all = headers.into_iter().chain(signed);
    let all: BTreeMap<Value, Value> = all.map(|(name, value)| (Value::from(name), Value::from(value))).collect();
    let mut request = request.clone();
    request.as_object_mut().map_err(|_| operand(1, "object"))?.insert(Value::from("headers"), Value::from(all));
    Ok(request)
}

/// `Authorization` and the headers that it needs beside it.
fn sign(
    credentials: &Credentials<'_>,
    method: &str,
    target: &uri::Target,
    headers: &BTreeMap<String, String>,
    content: &str,
    time: i64,
) -> BTreeMap<String, String> {
    let Credentials { service, region, access_key, secret_key, session_token } = *credentials;
    let time = DateTime::from_timestamp_nanos(time);
    let (date, moment) = (time.format("%Y%m%d").to_string(), time.format("%Y%m%dT%H%M%SZ").to_string());
    let mut own = BTreeMap::from([("host".to_owned(), target.host.clone()), ("x-amz-date".to_owned(), moment.clone())]);
    if matches!(service, "s3" | "glacier") {
        own.insert("x-amz-content-sha256".to_owned(), content.to_owned());
    }
    if !session_token.is_empty() {
        own.insert("x-amz-security-token".to_owned(), session_token.to_owned());
    }
    let mut covered = own.clone();
    let lowered = headers.iter().map(|(name, value)| (name.to_lowercase(), value.clone()));
    covered.extend(lowered.filter(|(name, _)| !UNSIGNED.contains(&name.as_str())));
    let names = covered.keys().map(String::as_str).collect::<Vec<_>>().join(";");
    let lines: String = covered.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let canonical = format!("{method}\n{}\n{}\n{lines}\n{names}\n{content}", target.path, target.query);
    let scope = format!("{date}/{region}/{service}/aws4_request");
    let statement = format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let secret = format!("AWS4{secret_key}").into_bytes();
    let key = [&date, region, service, "aws4_request"].into_iter().fold(secret, |key, part| keyed(&key, part));
    let signature = hex::encode(keyed(&key, &statement));
    let authorization = format!("AWS4-HMAC-SHA256 Credential={access_key}/{scope},SignedHeaders={names},Signature={signature}");
    own.insert("Authorization".to_owned(), authorization);
    own
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

fn keyed(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn member<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object.as_object().ok()?.get(&Value::from(name))
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

fn required<'a>(object: &'a Value, name: &str) -> Result<&'a str, Fault> {
    let value = member(object, name).ok_or_else(|| Fault(format!("missing required parameter {name:?}")))?;
    text(value).ok_or_else(|| Fault(format!("invalid value for required parameter {name:?}")))
}

/// What is no text counts as an empty one.
fn headers(request: &Value) -> Result<BTreeMap<String, String>, Fault> {
    let owned = |value: &Value| text(value).unwrap_or_default().to_owned();
    match member(request, "headers") {
        None => Ok(BTreeMap::new()),
        Some(Value::Object(headers)) => Ok(headers.iter().map(|(name, value)| (owned(name), owned(value))).collect()),
        Some(_) => Err("operand 1: headers must be object".into()),
    }
}

/// The body that is signed; `raw_body` goes before `body`.
fn body(request: &Value) -> Result<String, Fault> {
    match (member(request, "raw_body"), member(request, "body")) {
        (Some(raw), _) => Ok(text(raw).unwrap_or_default().to_owned()),
        (None, Some(body)) => json::marshal(body),
        (None, None) => Ok(String::new()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn call(request: Json, config: Json, time: Json) -> Option<Json> {
        let args = [request, config, time].map(Value::from);
        sign_request(&args).ok().map(|value| serde_json::to_value(value).unwrap())
    }

    /// AWS's own example: <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>.
    #[test]
    fn the_published_example_gets_its_signature() {
        let config = json!({
            "aws_service": "s3", "aws_region": "us-east-1", "aws_access_key": "AKIAIOSFODNN7EXAMPLE",
            "aws_secret_access_key": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        });
        let url = "https://examplebucket.s3.amazonaws.com/test.txt";
        let request = json!({"method": "GET", "url": url, "headers": {"Range": "bytes=0-9", "User-Agent": "x"}});
        let signed = call(request, config, 1_369_353_600_000_000_000_i64.into()).unwrap();
        let authorization = signed["headers"]["Authorization"].as_str().unwrap();
        let signature = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        assert!(authorization.ends_with(signature), "{authorization}");
        assert_eq!(signed["headers"]["x-amz-date"], "20130524T000000Z");
        assert_eq!(signed["headers"]["User-Agent"], "x");
    }

    #[test]
    fn what_cannot_be_signed_has_no_answer() {
        let config = json!({
            "aws_service": "ec2", "aws_region": "a", "aws_access_key": "k", "aws_secret_access_key": "s",
        });
        let request = json!({"method": "get", "url": "http://example.com"});
        let with = |object: &Json, name: &str, value: Json| {
            let mut object = object.clone();
            object[name] = value;
            object
        };
        for (request, config, time, expected) in [
            (request.clone(), config.clone(), json!(1), true),
            (request.clone(), config.clone(), json!(-1), false),
            (request.clone(), config.clone(), json!("1"), false),
            (json!({"method": "get"}), config.clone(), json!(1), false),
            (with(&request, "url", json!(1)), config.clone(), json!(1), false),
            (with(&request, "url", json!("http://[x")), config.clone(), json!(1), false),
            (with(&request, "other", json!(1)), config.clone(), json!(1), false),
            (with(&request, "headers", json!([])), config.clone(), json!(1), false),
            (with(&request, "headers", json!({"a": 1})), config.clone(), json!(1), true),
            (request.clone(), with(&config, "aws_region", json!(1)), json!(1), false),
            (request.clone(), with(&config, "disable_payload_signing", json!("true")), json!(1), false),
            (request.clone(), json!({}), json!(1), false),
            (json!([]), config.clone(), json!(1), false),
        ] {
            assert_eq!(call(request.clone(), config.clone(), time.clone()).is_some(), expected, "{request} {config} {time}");
        }
    }
}
