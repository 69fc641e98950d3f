//! Signatures as `opa sign` makes them, and each way to break one.

use aws_lc_rs::digest::SHA256;
use jsonwebtoken::{EncodingKey, crypto::sign};
use serde_json::{Value, json};

use super::*;

const NOW: Now = Now::from_seconds(1_800_000_000);
const SECRET: &[u8] = b"a secret of thirty-two bytes ...";

fn file(name: &str, text: &str) -> File {
    File { label: name.to_owned(), path: name.split('/').map(str::to_owned).collect(), bytes: text.as_bytes().to_vec() }
}

fn bundle() -> Vec<File> {
    vec![file(".manifest", "{\"revision\": \"1\"}"), file("a/p.rego", "package a"), file("data.json", "{\"x\": 1e3}")]
}

/// What `opa sign` says of `files`, named below `prefix`.
fn listed(files: &[File], prefix: &str) -> Value {
    let one = |file: &File| {
        let hash = hex::encode(digest::digest(file, &SHA256).unwrap());
        json!({"name": format!("{prefix}{}", file.path.join("/")), "hash": hash, "algorithm": "SHA-256"})
    };
    files.iter().map(one).collect()
}

fn token(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = sign(message.as_bytes(), &EncodingKey::from_secret(secret), Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

fn signatures(token: &str) -> File {
    file(FILE, &json!({"signatures": [token]}).to_string())
}

struct Setup {
    _folder: tempfile::TempDir,
    signing: Signing,
}

fn setup() -> Setup {
    let folder = tempfile::tempdir().unwrap();
    let mut signing = Signing::default();
    for (id, secret) in [("main", SECRET), ("other", b"another secret")] {
        let key_file = folder.path().join(id);
        fs::write(&key_file, secret).unwrap();
        signing.keys.insert(id.to_owned(), SigningKey { algorithm: SigningAlgorithm::HS256, key_file });
    }
    Setup { _folder: folder, signing }
}

fn verdict(files: &[File], signing: &Signing) -> Result<(), String> {
    verify("b", files, None, signing, NOW).map_err(|problem| {
        assert_eq!(problem.code, Code::Signature);
        problem.text
    })
}

#[test]
fn a_signature_holds_for_its_files_key_time_and_scope() {
    let Setup { _folder, mut signing } = setup();
    let header = json!({"alg": "HS256", "kid": "main"});
    let claims = |more: Value| {
        let mut claims = json!({"files": listed(&bundle(), "")});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claims
    };
    let soon = NOW.seconds() + 60;
    for (header, claims, secret, expected) in [
        (header.clone(), claims(json!({})), SECRET, None),
        (json!({"alg": "HS256"}), claims(json!({"keyid": "main"})), SECRET, None),
        (header.clone(), claims(json!({"exp": soon, "nbf": soon - 120, "iat": 1})), SECRET, None),
        (header.clone(), claims(json!({"exp": NOW.seconds()})), SECRET, Some("expired")),
        (header.clone(), claims(json!({"exp": 1.5})), SECRET, Some("expired")),
        (header.clone(), claims(json!({"exp": "never"})), SECRET, Some("lists no files")),
        (header.clone(), claims(json!({"nbf": soon})), SECRET, Some("not in force yet")),
        (header.clone(), claims(json!({"scope": "read"})), SECRET, Some("scope `read`")),
        (header.clone(), claims(json!({})), b"another secret", Some("not made by key `main`")),
        (json!({"alg": "HS256", "kid": "other"}), claims(json!({})), SECRET, Some("not made by key `other`")),
        (json!({"alg": "HS256", "kid": "lost"}), claims(json!({})), SECRET, Some("does not have")),
        (json!({"alg": "HS256"}), claims(json!({})), SECRET, Some("names no key")),
        (json!({"alg": "none", "kid": "main"}), claims(json!({})), SECRET, Some("algorithm `none`")),
        (json!({"alg": "HS512", "kid": "main"}), claims(json!({})), SECRET, Some("algorithm `HS512`")),
        (header.clone(), json!({"files": []}), SECRET, Some("does not cover")),
        (header, json!({}), SECRET, Some("lists no files")),
    ] {
        let mut files = bundle();
        files.push(signatures(&token(&header, &claims, secret)));
        match (verdict(&files, &signing), expected) {
            (Ok(()), None) => {}
            (Err(text), Some(expected)) => assert!(text.contains(expected), "{text}"),
            (found, expected) => panic!("{header} {claims}: {found:?}, expected {expected:?}"),
        }
    }
    let mut files = bundle();
    files.push(signatures(&token(&json!({"alg": "HS256"}), &claims(json!({"scope": "write"})), SECRET)));
    signing.scope = Some("write".to_owned());
    signing.keyid = Some("main".to_owned());
    assert_eq!(verdict(&files, &signing), Ok(()), "the configuration names key and scope");
    (signing.keyid, _) = (None, signing.keys.remove("other"));
    assert_eq!(verdict(&files, &signing), Ok(()), "the only key needs no name");
}

#[test]
fn each_tampering_is_refused() {
    let Setup { _folder, mut signing } = setup();
    let signed = signatures(&token(&json!({"alg": "HS256", "kid": "main"}), &json!({"files": listed(&bundle(), "")}), SECRET));
    type Change = fn(&mut Vec<File>);
    let table: [(&str, Change, &str); 12] = [
        ("nothing", |_| {}, ""),
        ("layout of data", |files| files[2].bytes = b" { \"x\":1e3 }\n".to_vec(), ""),
        ("a byte of rego", |files| files[1].bytes.push(b' '), "`a/p.rego` is not what was signed"),
        ("a number", |files| files[2].bytes = b"{\"x\": 1000}".to_vec(), "`data.json` is not what was signed"),
        ("the manifest", |files| files[0].bytes = b"{\"revision\": \"2\"}".to_vec(), "`.manifest` is not what was signed"),
        ("another file", |files| files.push(file("b.rego", "package b")), "does not cover `b.rego`"),
        ("another of no use", |files| files.push(file(".x/README", "")), "does not cover `.x/README`"),
        ("one less", |files| drop(files.remove(1)), "`a/p.rego` was signed and is not there"),
        ("no manifest", |files| drop(files.remove(0)), "`.manifest` was signed and is not there"),
        ("an empty manifest", |files| files[0].bytes = b"{}".to_vec(), "`.manifest` is not what was signed"),
        ("moved", |files| files[1].path = vec!["p.rego".to_owned()], "does not cover `p.rego`"),
        ("a second list", |files| files.push(file("x/.signatures.json", "{}")), "more than once"),
    ];
    for (name, change, expected) in table {
        let mut files = bundle();
        change(&mut files);
        files.push(file(FILE, std::str::from_utf8(&signed.bytes).unwrap()));
        match verdict(&files, &signing) {
            Ok(()) => assert_eq!(expected, "", "{name}"),
            Err(text) => assert!(!expected.is_empty() && text.contains(expected), "{name}: {text}"),
        }
    }
    assert!(verdict(&bundle(), &signing).unwrap_err().contains("bears no signature"));
    signing.exclude = vec!["a/*".to_owned()];
    let mut files = bundle();
    files[1].bytes.push(b' ');
    files.push(file("a/more.rego", "package a"));
    files.push(signed);
    assert_eq!(verdict(&files, &signing), Ok(()), "excluded files need no signature");
}

#[test]
fn malformed_signature_files_are_refused() {
    let Setup { _folder, signing } = setup();
    for (text, expected) in [
        ("[", "malformed"),
        ("{}", "0 signatures"),
        (r#"{"signatures": ["a", "b"]}"#, "2 signatures"),
        (r#"{"signatures": ["a"]}"#, "no JWT"),
        (r#"{"signatures": ["a.b.c"]}"#, "no JWT"),
        (r#"{"signatures": ["....."]}"#, "no JWT"),
        (r#"{"signatures": ["x"], "plugin": "mine"}"#, "a signer of its own"),
    ] {
        let mut files = bundle();
        files.push(file(FILE, text));
        let said = verdict(&files, &signing).unwrap_err();
        assert!(said.contains(expected), "{text}: {said}");
        assert_eq!(is_signed(&files), text != "{}", "{text}");
    }
}

#[test]
fn keys_that_are_none_are_refused_and_not_quoted() {
    let Setup { _folder, mut signing } = setup();
    let mut files = bundle();
    for (algorithm, text, expected) in [
        (SigningAlgorithm::HS256, " \n", "is empty"),
        (SigningAlgorithm::RS256, "secret text", "holds no public key for RS256"),
        (SigningAlgorithm::ES256, "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "holds no public key for ES256"),
        (SigningAlgorithm::EdDSA, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "holds a private key"),
    ] {
        let key = signing.keys.get_mut("main").unwrap();
        key.algorithm = algorithm;
        fs::write(&key.key_file, text).unwrap();
        let header = json!({"alg": format!("{algorithm:?}"), "kid": "main"});
        files.push(signatures(&token(&header, &json!({"files": []}), SECRET)));
        let said = verdict(&files, &signing).unwrap_err();
        files.pop();
        assert!(said.contains(expected) && !said.contains("secret text") && !said.contains("AAAA"), "{said}");
    }
    fs::remove_file(&signing.keys["main"].key_file).unwrap();
    files.push(signatures(&token(&json!({"alg": "EdDSA", "kid": "main"}), &json!({"files": []}), SECRET)));
    assert!(verdict(&files, &signing).unwrap_err().contains("cannot be read"));
}

#[test]
fn a_folder_may_be_signed_by_the_way_to_it() {
    let Setup { _folder, signing } = setup();
    for (prefix, folder, holds) in [
        ("", "/etc/policy", true),
        ("policy/", "/etc/policy", true),
        ("etc/policy/", "/etc/policy", true),
        ("policy/", "/etc/other", false),
        ("cy/", "/etc/policy", false),
        ("etc/", "/etc/policy", false),
    ] {
        let claims = json!({"files": listed(&bundle(), prefix)});
        let mut files = bundle();
        files.push(signatures(&token(&json!({"alg": "HS256", "kid": "main"}), &claims, SECRET)));
        let verdict = verify("b", &files, Some(Path::new(folder)), &signing, NOW);
        assert_eq!(verdict.is_ok(), holds, "{prefix} {folder}: {verdict:?}");
    }
}

#[test]
fn patterns_match_whole_names() {
    for (pattern, name, expected) in [
        ("*.md", "README.md", true),
        ("*.md", "docs/README.md", false),
        ("docs/*", "docs/a.md", true),
        ("docs/*", "docs/a/b.md", false),
        ("*/*", "a/b", true),
        ("a?c", "abc", true),
        ("a?c", "a/c", false),
        ("", "", true),
        ("*", "", true),
        ("a", "ab", false),
        ("é*", "éa", true),
        ("a**b", "axb", true),
    ] {
        assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
    }
    assert!(!matches(&"*a".repeat(500), &"a".repeat(499)), "and in time that is bounded");
}
