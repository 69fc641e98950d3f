//! Certificates that are shown and verified, and the ways in which chains do not hold.

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, CustomExtension, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType, date_time_ymd,
};

use super::*;
use crate::policy::builtins::context;

/// 2026-11-25.
const NOW: i64 = 1_795_564_800_000_000_000;

type Change = dyn Fn(&mut CertificateParams);

struct Issued {
    pem: String,
    key: KeyPair,
    params: CertificateParams,
}

fn authority(name: &str, by: Option<&Issued>, change: impl FnOnce(&mut CertificateParams)) -> Issued {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    issue(params, by, change)
}

fn leaf(by: &Issued, change: impl FnOnce(&mut CertificateParams)) -> Issued {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "leaf");
    params.subject_alt_names = vec![SanType::DnsName("a.test".try_into().unwrap())];
    issue(params, Some(by), change)
}

fn issue(mut params: CertificateParams, by: Option<&Issued>, change: impl FnOnce(&mut CertificateParams)) -> Issued {
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = match by {
        Some(by) => params.signed_by(&key, &Issuer::from_params(&by.params, &by.key)).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    Issued { pem: certificate.pem(), key, params }
}

fn call(name: &str, args: &[Json]) -> Result<Json, Fault> {
    context::begin(NOW);
    let builtin = X509.iter().find(|builtin| builtin.name == name).unwrap();
    let args: Vec<Value> = args.iter().cloned().map(Value::from).collect();
    (builtin.run)(&args).map(|value| serde_json::to_value(value).unwrap())
}

fn names(chain: &Json) -> Vec<&str> {
    chain.as_array().unwrap().iter().map(|shown| shown["Subject"]["CommonName"].as_str().unwrap()).collect()
}

/// The names along the chain, if it holds.
fn holds(chain: &[&Issued], options: Option<Json>) -> Option<Vec<String>> {
    let text: String = chain.iter().map(|issued| issued.pem.as_str()).collect();
    let found = match options {
        Some(options) => call("crypto.x509.parse_and_verify_certificates_with_options", &[text.into(), options]),
        None => call("crypto.x509.parse_and_verify_certificates", &[text.into()]),
    };
    let found = found.ok()?;
    assert_eq!(found[0] == false, found == json!([false, []]), "{found}");
    (found[0] == true).then(|| names(&found[1]).into_iter().map(str::to_owned).collect())
}

#[test]
fn a_chain_holds_from_the_leaf_to_the_root() {
    let root = authority("root", None, |_| ());
    let middle = authority("middle", Some(&root), |_| ());
    let (stranger, end) = (authority("stranger", None, |_| ()), leaf(&middle, |_| ()));
    assert_eq!(holds(&[&root, &middle, &end], None).unwrap(), ["leaf", "middle", "root"]);
    assert_eq!(holds(&[&root, &stranger, &middle, &end], None).unwrap(), ["leaf", "middle", "root"]);
    for chain in [&[&root, &end][..], &[&stranger, &middle, &end], &[&middle, &root], &[&end], &[], &[&end, &middle, &root]] {
        assert_eq!(holds(chain, None), None);
    }
}

#[test]
fn certificates_that_may_not_issue_end_a_chain() {
    let root = authority("root", None, |_| ());
    let short = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let late = |params: &mut CertificateParams| params.not_after = date_time_ymd(2026, 2, 1);
    let no_signing = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::CrlSign];
    let clients = |params: &mut CertificateParams| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let no_ca = |params: &mut CertificateParams| params.is_ca = IsCa::ExplicitNoCa;
    let unknown = |params: &mut CertificateParams| {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 9], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions = vec![extension];
    };
    let changes: [(&str, &Change, bool, bool); 6] = [
        ("path length", &short, false, true),
        ("expired", &late, false, false),
        ("no certSign", &no_signing, false, false),
        ("only clients", &clients, false, false),
        ("no authority", &no_ca, false, false),
        ("critical", &unknown, false, false),
    ];
    for (name, change, as_root, as_middle) in changes {
        let odd = authority("odd", None, change);
        let below = authority("below", Some(&odd), |_| ());
        assert_eq!(holds(&[&odd, &below, &leaf(&below, |_| ())], None).is_some(), as_root, "{name} as root");
        let odd = authority("odd", Some(&root), change);
        assert_eq!(holds(&[&root, &odd, &leaf(&odd, |_| ())], None).is_some(), as_middle, "{name} between");
    }
    let odd = leaf(&root, unknown);
    assert_eq!(holds(&[&root, &odd], None), None);
}

#[test]
fn options_are_held_against_the_chain() {
    let root = authority("root", None, |params| {
        let permitted = [
            GeneralSubtree::DnsName("test".to_owned()),
            GeneralSubtree::IpAddress(CidrSubnet::V4([10, 0, 0, 0], [255, 0, 0, 0])),
        ];
        params.name_constraints = Some(NameConstraints { permitted_subtrees: permitted.to_vec(), excluded_subtrees: vec![] });
    });
    let server = leaf(&root, |_| ());
    let client = leaf(&root, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    let outside = leaf(&root, |params| params.subject_alt_names = vec![SanType::DnsName("a.other".try_into().unwrap())]);
    assert!(holds(&[&root, &outside], None).is_none());
    assert!(holds(&[&root, &client], None).is_none());
    let year = 365 * 24 * 3600 * 1_000_000_000_i64;
    for (end, options, expected) in [
        (&server, json!({}), true),
        (&server, json!({"DNSName": "a.test"}), true),
        (&server, json!({"DNSName": "b.test"}), false),
        (&server, json!({"DNSName": "10.0.0.1"}), false),
        (&server, json!({"CurrentTime": NOW + year}), false),
        (&server, json!({"CurrentTime": NOW - year}), false),
        (&server, json!({"CurrentTime": NOW + 1}), true),
        (&client, json!({"KeyUsages": ["KeyUsageClientAuth"]}), true),
        (&client, json!({"KeyUsages": ["KeyUsageServerAuth", "KeyUsageClientAuth"]}), true),
        (&client, json!({"KeyUsages": ["KeyUsageAny"]}), true),
        (&client, json!({"KeyUsages": ["KeyUsageCodeSigning"]}), false),
        (&client, json!({"KeyUsages": []}), false),
        (&client, json!({"KeyUsages": ["unknown"]}), false),
        (&server, json!({"MaxConstraintComparisons": 5}), true),
        (&server, json!({"CurrentTime": "now"}), false),
        (&server, json!({"Roots": []}), false),
    ] {
        assert_eq!(holds(&[&root, end], Some(options.clone())).is_some(), expected, "{options}");
    }
}

#[test]
fn what_go_might_verify_and_we_do_not_ends_the_evaluation() {
    let root = authority("root", None, |_| ());
    let end = authority("end", Some(&root), |_| ());
    assert_eq!(holds(&[&root, &end], None), None);
    assert!(context::take_limit().unwrap().contains("authority"));
}

#[test]
fn a_certificate_is_shown_as_go_shows_it() {
    let root = authority("root", None, |_| ());
    let end = leaf(&root, |params| {
        params.distinguished_name.push(DnType::OrganizationName, "o");
        params.subject_alt_names.extend([
            SanType::URI("spiffe://td.test/ns/a?x#y".try_into().unwrap()),
            SanType::IpAddress("10.0.0.1".parse().unwrap()),
            SanType::Rfc822Name("x@y.z".try_into().unwrap()),
        ]);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    });
    let shown = call("crypto.x509.parse_certificates", &[format!("{}{}", end.pem, root.pem).into()]).unwrap();
    assert_eq!(names(&shown), ["leaf", "root"]);
    let first = &shown[0];
    for (field, expected) in [
        ("DNSNames", json!(["a.test"])),
        ("URIStrings", json!(["spiffe://td.test/ns/a?x#y"])),
        ("IPAddresses", json!(["10.0.0.1"])),
        ("EmailAddresses", json!(["x@y.z"])),
        ("KeyUsage", json!(33)),
        ("ExtKeyUsage", json!([2, 1])),
        ("NotBefore", json!("2026-01-01T00:00:00Z")),
        ("SignatureAlgorithm", json!(10)),
        ("PublicKeyAlgorithm", json!(3)),
        ("Version", json!(3)),
        ("IsCA", json!(false)),
        ("PermittedDNSDomains", Json::Null),
    ] {
        assert_eq!(first[field], expected, "{field}");
    }
    let uri = &first["URIs"][0];
    assert_eq!((uri["Scheme"].as_str(), uri["Host"].as_str()), (Some("spiffe"), Some("td.test")));
    assert_eq!((uri["Path"].as_str(), uri["RawQuery"].as_str()), (Some("/ns/a"), Some("x")));
    assert_eq!(first["Subject"]["Organization"], json!(["o"]));
    assert_eq!(shown[1]["IsCA"], true);
    assert_eq!(shown[1]["URIStrings"], Json::Null);
    let (head, tail) = end.pem.split_at(100);
    for text in ["", "x", "AAAA", &format!("{head}AAAA{tail}"), &end.key.serialize_pem()] {
        let found = call("crypto.x509.parse_certificates", &[text.into()]);
        assert_eq!(found.ok(), text.is_empty().then(|| json!([])), "{text}");
    }
}

#[test]
fn requests_and_key_pairs_are_shown() {
    let root = authority("root", None, |_| ());
    let (end, other) = (leaf(&root, |_| ()), leaf(&root, |_| ()));
    let request = end.params.serialize_request(&end.key).unwrap().pem().unwrap();
    let shown = call("crypto.x509.parse_certificate_request", &[request.into()]).unwrap();
    assert_eq!(shown["Subject"]["CommonName"], "leaf");
    assert_eq!(shown["DNSNames"], json!(["a.test"]));
    assert!(call("crypto.x509.parse_certificate_request", &[end.pem.as_str().into()]).is_err());
    let pair = |key: &KeyPair| call("crypto.x509.parse_keypair", &[end.pem.as_str().into(), key.serialize_pem().into()]);
    let shown = pair(&end.key).unwrap();
    assert_eq!(shown["Leaf"]["Subject"]["CommonName"], "leaf");
    assert_eq!(shown["PrivateKey"]["X"], shown["Leaf"]["PublicKey"]["X"]);
    assert!(pair(&other.key).is_err());
    let jwk = call("crypto.x509.parse_rsa_private_key", &[end.key.serialize_pem().into()]).unwrap();
    assert_eq!((jwk["kty"].as_str(), jwk["crv"].as_str()), (Some("EC"), Some("P-256")));
    let keys = format!("{}{}", end.key.serialize_pem(), other.key.serialize_pem());
    assert_eq!(call("crypto.parse_private_keys", &[keys.into()]).unwrap().as_array().unwrap().len(), 2);
    for (text, expected) in [("", Json::Null), ("none", json!([]))] {
        assert_eq!(call("crypto.parse_private_keys", &[text.into()]).unwrap(), expected);
    }
    let broken = end.key.serialize_pem().replace("MIGH", "MIGI");
    assert!(call("crypto.parse_private_keys", &[broken.into()]).is_err());
}
