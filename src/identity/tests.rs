//! The matrix of certificates that are and are not SVIDs, and what is remembered of them. `D` numbers are the cases of
//! the fact sheet on Envoy, `X` and `S-ID` those of the fact sheet on standards.

use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};

use super::*;
use crate::trust::testing::{Authority, BundleFolder, Leaf, NOW, escape, name_constraint, valid};

const ID: &str = "spiffe://td.test/ns/a/sa/b";

fn rules(proof: PeerProof) -> PeerRules {
    PeerRules { proof, strict_basic_constraints: false, xfcc: Xfcc::Off, forward_xfcc: false, placement: Placement::Inbound }
}

fn source(certificate: &str, principal: &str) -> Endpoint {
    Endpoint { certificate: certificate.to_owned(), principal: principal.to_owned(), ..Endpoint::default() }
}

fn identity(folder: &BundleFolder) -> Identity {
    Identity::new(Arc::new(TrustStore::load(&folder.settings).unwrap()), Arc::default())
}

/// `Ok` with the ID and its evidence, or what else was found.
fn outcome(who: Who) -> Result<String, Who> {
    match who {
        Who::Proved(peer) => Ok(format!("{} by {}", peer.id, peer.evidence.as_str())),
        other => Err(other),
    }
}

fn ask(identity: &Identity, text: &str, proof: PeerProof) -> Result<String, Who> {
    outcome(identity.who(Some(&source(text, "")), None, &rules(proof), NOW))
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// SubjectAlternativeName written by hand: the general names, already encoded.
fn raw_names(names: &[u8]) -> CustomExtension {
    let mut der = vec![0x30, names.len().try_into().unwrap()];
    der.extend_from_slice(names);
    CustomExtension::from_oid_content(&[2, 5, 29, 17], der)
}

#[test]
fn leaf_rules_hold_whoever_checked_the_chain() {
    let root = Authority::new("root");
    let folder = BundleFolder::new(&[("td.test", &[&root])]);
    let identity = identity(&folder);
    let leaf = |change: fn(&mut CertificateParams)| root.leaf(&[ID], change);
    let long = format!("spiffe://td.test/{}", "a".repeat(2048));
    let table: Vec<(&str, Leaf, Result<(), Who>)> = vec![
        ("good", root.svid(ID), Ok(())),
        ("other kinds of SAN are allowed", leaf(|p| p.subject_alt_names.push(dns("a.test"))), Ok(())),
        ("no BasicConstraints", leaf(|p| p.is_ca = IsCa::NoCa), Ok(())),
        ("cA spelt out as false", leaf(|p| p.is_ca = IsCa::ExplicitNoCa), Ok(())),
        ("no EKU", leaf(|p| p.extended_key_usages.clear()), Ok(())),
        ("D 29, X-1 two SPIFFE IDs", root.leaf(&[ID, "spiffe://td.test/c"], |_| ()), Err(Who::Invalid(Reason::MultipleUriSans))),
        ("X-1 second of another scheme", root.leaf(&[ID, "https://a.test/"], |_| ()), Err(Who::Invalid(Reason::MultipleUriSans))),
        (
            "X-1 second that is no text",
            leaf(|p| {
                p.subject_alt_names.clear();
                p.custom_extensions = vec![raw_names(b"\x86\x12spiffe://td.test/a\x86\x02\xff\xfe")];
            }),
            Err(Who::Invalid(Reason::MultipleUriSans)),
        ),
        (
            "only one that is no text",
            leaf(|p| {
                p.subject_alt_names.clear();
                p.custom_extensions = vec![raw_names(b"\x86\x02\xff\xfe")];
            }),
            Err(Who::Invalid(Reason::InvalidSpiffeId)),
        ),
        (
            "names that cannot be parsed",
            leaf(|p| {
                p.subject_alt_names.clear();
                p.custom_extensions = vec![raw_names(b"\x86\x7fspiffe")];
            }),
            Err(Who::Invalid(Reason::CertificateMalformed)),
        ),
        (
            "two SAN extensions",
            leaf(|p| p.custom_extensions = vec![raw_names(b"")]),
            Err(Who::Invalid(Reason::CertificateMalformed)),
        ),
        ("no SAN", root.leaf(&[], |_| ()), Err(Who::NoSvid(Reason::NoUriSan))),
        (
            "D 30 DNS SAN only",
            root.leaf(&[], |p| p.subject_alt_names = vec![dns("spiffe://td.test/admin")]),
            Err(Who::NoSvid(Reason::NoUriSan)),
        ),
        ("D 31 NUL in the SAN", root.leaf(&["spiffe://td.test/a\0b"], |_| ()), Err(Who::Invalid(Reason::InvalidSpiffeId))),
        ("X-1 longer than 2048", root.leaf(&[&long], |_| ()), Err(Who::Invalid(Reason::InvalidSpiffeId))),
        ("X-2 no path", root.leaf(&["spiffe://td.test"], |_| ()), Err(Who::Invalid(Reason::InvalidSpiffeId))),
        ("D 32 upper-case trust domain", root.leaf(&["spiffe://TD.test/a"], |_| ()), Err(Who::Invalid(Reason::InvalidSpiffeId))),
        ("other scheme", root.leaf(&["https://td.test/a"], |_| ()), Err(Who::Invalid(Reason::InvalidSpiffeId))),
        ("X-3 CA", leaf(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), Err(Who::Invalid(Reason::CaCertificate))),
        ("X-4 no key usage", leaf(|p| p.key_usages.clear()), Err(Who::Invalid(Reason::KeyUsage))),
        (
            "X-4 no digitalSignature",
            leaf(|p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
            Err(Who::Invalid(Reason::KeyUsage)),
        ),
        ("X-4 keyCertSign", leaf(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)), Err(Who::Invalid(Reason::KeyUsage))),
        ("X-4 cRLSign", leaf(|p| p.key_usages.push(KeyUsagePurpose::CrlSign)), Err(Who::Invalid(Reason::KeyUsage))),
        (
            "X-5 EKU for servers only",
            leaf(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            Err(Who::Invalid(Reason::ExtendedKeyUsage)),
        ),
        ("D 33 expired", leaf(|p| valid(p, -7200, -1)), Err(Who::Invalid(Reason::SvidExpired))),
        ("expires this second", leaf(|p| valid(p, -7200, 0)), Ok(())),
        ("not yet valid", leaf(|p| valid(p, 1, 7200)), Err(Who::Invalid(Reason::SvidNotYetValid))),
    ];
    for (name, leaf, expected) in table {
        for (proof, evidence) in [(PeerProof::Sidecar, "sidecar"), (PeerProof::Certificate, "envoy")] {
            let expected = expected.clone().map(|()| format!("{ID} by {evidence}"));
            assert_eq!(ask(&identity, &leaf.text(), proof), expected, "{name}");
        }
    }
}

#[test]
fn chain_counts_only_where_it_is_checked_here() {
    let (root, foreign) = (Authority::new("root"), Authority::new("foreign"));
    let constrained = Authority::with("constrained", |p| p.custom_extensions = vec![name_constraint(0xa0, 0x86, "c.test")]);
    let middle = root.intermediate("middle", |_| ());
    let folder = BundleFolder::new(&[
        ("td.test", &[&root]),
        ("other.test", &[&foreign]),
        ("c.test", &[&constrained]),
        ("empty.test", &[]),
    ]);
    let identity = identity(&folder);
    let table = [
        ("X-6 foreign trust domain under our root", root.svid("spiffe://other.test/a"), Reason::UntrustedChain),
        ("D 33 root of another domain", foreign.svid(ID), Reason::UntrustedChain),
        ("X-10 leaf of an intermediate", middle.svid(ID), Reason::UntrustedChain),
        ("unknown domain", root.svid("spiffe://unknown.test/a"), Reason::UntrustedDomain),
        ("X-9 empty bundle", root.svid("spiffe://empty.test/a"), Reason::UntrustedChain),
        ("X-11 URI name constraint", constrained.svid("spiffe://c.test/a"), Reason::NameConstraints),
        ("D 33 expired as well", foreign.leaf(&[ID], |p| valid(p, -7200, -1)), Reason::UntrustedChain),
    ];
    for (name, leaf, reason) in table {
        assert_eq!(ask(&identity, &leaf.text(), PeerProof::Sidecar), Err(Who::Invalid(reason)), "{name}");
    }
    let believed = ask(&identity, &foreign.svid(ID).text(), PeerProof::Certificate);
    assert_eq!(believed, Ok(format!("{ID} by envoy")));
}

#[test]
fn certificate_text_is_read_strictly() {
    let root = Authority::new("root");
    let folder = BundleFolder::new(&[("td.test", &[&root])]);
    let identity = identity(&folder);
    let good = root.svid(ID);
    let (pem, text) = (good.certificate.pem(), good.text());
    let in_der = |change: fn(&mut Vec<u8>)| {
        let mut der = good.der().to_vec();
        change(&mut der);
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64_STANDARD.encode(der))
    };
    let table = [
        ("D 31 escaped", text.clone(), true),
        ("D 31 literal plus, slash and line ends", pem.clone(), true),
        ("lower-case hex", text.replace("%0A", "%0a").replace("%2B", "%2b"), true),
        ("CR LF", escape(&pem.replace('\n', "\r\n")), true),
        ("one line of base64", in_der(|_| ()), true),
        ("plus as blank", escape(&pem.replace(['+', '/'], " ")), false),
        ("D 31 garbage", "garbage".to_owned(), false),
        ("blank", " ".to_owned(), false),
        ("D 31 two blocks", escape(&pem.repeat(2)), false),
        ("text before", escape(&format!("hello\n{pem}")), false),
        ("trailing text", escape(&format!("{pem}x")), false),
        ("no end", text.replace("END", "EN"), false),
        ("another label", escape(&pem.replace("CERTIFICATE", "X509 CRL")), false),
        ("bad escape", text.replacen("%0A", "%0", 1), false),
        ("bad escape at the end", format!("{text}%"), false),
        ("escape to no UTF-8", format!("{text}%ff"), false),
        ("NUL", format!("{text}%00"), false),
        ("empty block", escape("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), false),
        ("X-10 trailing data in DER", in_der(|der| der.push(0)), false),
        ("cut DER", in_der(|der| der.truncate(100)), false),
        ("X-10 over 16 KiB", format!("{text}{}", "%0A".repeat(6000)), false),
    ];
    for (name, text, accepted) in table {
        let expected = if accepted { Ok(format!("{ID} by sidecar")) } else { Err(Who::Invalid(Reason::CertificateMalformed)) };
        assert_eq!(ask(&identity, &text, PeerProof::Sidecar), expected, "{name}");
    }
    // Some certificates have no such letter; the test must not pass for want of one.
    assert!(pem.contains(['+', '/']));
}

#[test]
fn any_damage_to_a_certificate_is_decided() {
    let root = Authority::new("root");
    let folder = BundleFolder::new(&[("td.test", &[&root])]);
    let identity = identity(&folder);
    let der = root.svid(ID).der().to_vec();
    for at in 0..der.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut der = der.clone();
            der[at] ^= flip;
            let pem = BASE64_STANDARD.encode(der);
            let text = format!("-----BEGIN CERTIFICATE-----\n{pem}\n-----END CERTIFICATE-----\n");
            assert!(ask(&identity, &text, PeerProof::Sidecar).is_err(), "byte {at} changed by {flip:#x}");
        }
    }
}

#[test]
fn strict_listeners_want_basic_constraints() {
    let root = Authority::new("root");
    let identity = identity(&BundleFolder::new(&[("td.test", &[&root])]));
    let strict = PeerRules { strict_basic_constraints: true, ..rules(PeerProof::Sidecar) };
    for (is_ca, expected) in [(IsCa::NoCa, false), (IsCa::ExplicitNoCa, true)] {
        let leaf = root.leaf(&[ID], |p| p.is_ca = is_ca);
        // The lenient answer must not be remembered for the strict listener.
        assert!(ask(&identity, &leaf.text(), PeerProof::Sidecar).is_ok());
        let who = identity.who(Some(&source(&leaf.text(), "")), None, &strict, NOW);
        assert_eq!(matches!(who, Who::Proved(_)), expected, "{who:?}");
        assert!(expected || who == Who::Invalid(Reason::CaCertificate));
    }
}

#[test]
fn principal_never_stands_in_for_a_certificate() {
    let root = Authority::new("root");
    let identity = identity(&BundleFolder::new(&[("td.test", &[&root])]));
    let (svid, plain) = (root.svid(ID).text(), root.leaf(&[], |_| ()).text());
    let mismatch = || Err(Who::Invalid(Reason::IdentityMismatch));
    let table = [
        ("nothing at all", "", "", Err(Who::Absent)),
        ("D 28 principal only", "", ID, Err(Who::Absent)),
        ("D 30 principal from a DNS SAN", plain.as_str(), "spiffe://td.test/admin", Err(Who::NoSvid(Reason::NoUriSan))),
        ("same", &svid, ID, Ok(())),
        ("same, spelt otherwise", &svid, "SPIFFE://TD.test/ns/a/sa/b", Ok(())),
        ("no principal", &svid, "", Ok(())),
        ("D 34 other ID", &svid, "spiffe://td.test/ns/a/sa/c", mismatch()),
        ("D 34 other scheme", &svid, "https://td.test/", mismatch()),
        ("D 34 other case in the path", &svid, "spiffe://td.test/ns/A/sa/b", mismatch()),
        ("D 34 prefix", &svid, "spiffe://td.test/ns/a/sa", mismatch()),
        ("D 34 a DNS name", &svid, "td.test", mismatch()),
    ];
    for (name, certificate, principal, expected) in table {
        let who = identity.who(Some(&source(certificate, principal)), None, &rules(PeerProof::Sidecar), NOW);
        assert_eq!(outcome(who), expected.map(|()| format!("{ID} by sidecar")), "{name}");
    }
    assert_eq!(identity.who(None, None, &rules(PeerProof::Sidecar), NOW), Who::Absent);
}

#[test]
fn principal_is_believed_where_the_listener_says_so() {
    let identity = identity(&BundleFolder::new(&[]));
    let invalid = || Err(Who::Invalid(Reason::InvalidSpiffeId));
    let table = [
        (ID, Ok(())),
        ("", Err(Who::Absent)),
        ("spiffe://td.test", invalid()),
        ("spiffe://TD.test/a", invalid()),
        ("SPIFFE://td.test/a", invalid()),
        ("spiffe:td.test", invalid()),
        ("spiffe://td.test/a,spiffe://td.test/b", invalid()),
        ("td.test", Err(Who::NoSvid(Reason::NoUriSan))),
        ("CN=a,O=b", Err(Who::NoSvid(Reason::NoUriSan))),
        ("https://td.test/a", Err(Who::NoSvid(Reason::NoUriSan))),
    ];
    for (principal, expected) in table {
        let who = identity.who(Some(&source("ignored", principal)), None, &rules(PeerProof::Principal), NOW);
        if let Who::Proved(peer) = &who {
            assert_eq!(peer.x509, None);
        }
        assert_eq!(outcome(who), expected.map(|()| format!("{ID} by envoy")), "{principal}");
    }
}

#[test]
fn details_of_the_certificate_are_kept() {
    let root = Authority::new("root");
    let identity = identity(&BundleFolder::new(&[("td.test", &[&root])]));
    let leaf = root.svid(ID);
    let Who::Proved(peer) = identity.who(Some(&source(&leaf.text(), ID)), None, &rules(PeerProof::Sidecar), NOW) else {
        panic!("not proved");
    };
    let x509 = peer.x509.as_ref().unwrap();
    assert_eq!(*x509.sha256, *hex::encode(digest::digest(&digest::SHA256, leaf.der())));
    assert_eq!((x509.serial.as_str(), x509.issuer.as_str()), ("ab01", "CN=root"));
    assert_eq!((x509.not_before, x509.not_after), (NOW.seconds() - 1800, NOW.seconds() + 1800));
}

#[test]
fn expiry_takes_effect_on_remembered_certificates() {
    let root = Authority::new("root");
    let identity = identity(&BundleFolder::new(&[("td.test", &[&root])]));
    let source = source(&root.svid(ID).text(), ID);
    let at = |offset: i64| {
        let now = Now::from_seconds(u64::try_from(NOW.seconds() + offset).unwrap());
        outcome(identity.who(Some(&source), None, &rules(PeerProof::Sidecar), now)).map(drop)
    };
    // First seen before it is valid: that must not stick either.
    assert_eq!(at(-1801), Err(Who::Invalid(Reason::SvidNotYetValid)));
    assert_eq!(at(0), Ok(()));
    assert_eq!(at(1800), Ok(()));
    assert_eq!(at(1801), Err(Who::Invalid(Reason::SvidExpired)));
    assert_eq!(at(0), Ok(()));
    identity.checked.run_pending_tasks();
    assert_eq!(identity.checked.entry_count(), 1);
}

#[test]
fn bundle_change_takes_effect_on_remembered_certificates() {
    let (root, next) = (Authority::new("root"), Authority::new("next"));
    let mut folder = BundleFolder::new(&[("td.test", &[&root])]);
    let identity = identity(&folder);
    let text = root.svid(ID).text();
    let ask = || ask(&identity, &text, PeerProof::Sidecar).map(drop);
    assert_eq!(ask(), Ok(()));

    let mut put = |roots: &str| {
        folder.write("td.test", roots);
        identity.trust.reload(&folder.settings);
    };
    put(&next.certificate.pem());
    assert_eq!(ask(), Err(Who::Invalid(Reason::UntrustedChain)));
    put(&(next.certificate.pem() + &root.certificate.pem()));
    assert_eq!(ask(), Ok(()));
    put("");
    assert_eq!(ask(), Err(Who::Invalid(Reason::UntrustedChain)), "X-9");
}

#[test]
fn memory_for_remembered_certificates_is_bounded() {
    let identity = identity(&BundleFolder::new(&[]));
    for number in 0..1_000_000 {
        let _ = ask(&identity, &format!("garbage {number}"), PeerProof::Sidecar);
    }
    identity.checked.run_pending_tasks();
    assert!(identity.checked.weighted_size() <= CACHE_BYTES);
}

#[test]
fn intermediates_come_from_the_header_where_the_listener_says_so() {
    let root = Authority::new("root");
    let between = root.intermediate("between", |params| valid(params, -3600, 60));
    let folder = BundleFolder::new(&[("td.test", &[&root])]);
    let leaf = between.svid(ID);
    let chain = escape(&format!("{}{}", leaf.certificate.pem(), between.certificate.pem()));
    let hash = hex::encode(digest::digest(&digest::SHA256, leaf.der()));
    let header = format!("Hash={hash};Chain=\"{chain}\"");
    let wrong = format!("Hash={};Chain=\"{chain}\"", hash.replace(|c: char| c.is_ascii_digit(), "0"));
    let (off, on) = (rules(PeerProof::Sidecar), PeerRules { xfcc: Xfcc::LastElement, ..rules(PeerProof::Sidecar) });
    let later = Now::from_seconds(u64::try_from(NOW.seconds()).unwrap() + 61);
    let identity = identity(&folder);
    let ask = |header: Option<&str>, rules: &PeerRules, now| {
        outcome(identity.who(Some(&source(&leaf.text(), "")), header.map(Header::parse).as_ref(), rules, now)).map_err(|who| {
            match who {
                Who::Invalid(reason) => reason,
                other => panic!("{other:?}"),
            }
        })
    };
    for (name, header, rules, now, expected) in [
        ("D 35, E-1: off by default", Some(&*header), off, NOW, Err(Reason::UntrustedChain)),
        ("no header", None, on, NOW, Err(Reason::UntrustedChain)),
        ("a refusal is not remembered against a better header", Some(&*header), on, NOW, Ok(())),
        ("the proof is remembered", None, on, NOW, Ok(())),
        ("E-2: about another leaf, after a proof", Some(&*wrong), on, NOW, Err(Reason::XfccMismatch)),
        ("E-4: malformed, after a proof", Some("Hash"), on, NOW, Err(Reason::XfccMalformed)),
        ("E-1: not read where it is off", Some("Hash"), off, NOW, Ok(())),
        ("until a certificate between expires", Some(&*header), on, later, Err(Reason::UntrustedChain)),
        ("E-2: about another leaf", Some(&*wrong), on, later, Err(Reason::XfccMismatch)),
        ("E-4: malformed", Some("Hash"), on, later, Err(Reason::XfccMalformed)),
    ] {
        assert_eq!(ask(header, &rules, now).map(drop), expected, "{name}");
    }
}

#[test]
fn on_the_way_out_the_caller_is_ourselves() {
    let root = Authority::new("root");
    let identity = identity(&BundleFolder::new(&[("td.test", &[&root])]));
    let egress = PeerRules { placement: Placement::Egress, ..rules(PeerProof::Sidecar) };
    let other = source(&root.svid("spiffe://td.test/other").text(), "spiffe://td.test/other");
    let who = |offset: i64| {
        let now = Now::from_seconds(u64::try_from(NOW.seconds() + offset).unwrap());
        outcome(identity.who(Some(&other), None, &egress, now))
    };
    let take = |leaf: &Leaf| {
        let key = rustls_pki_types::PrivateKeyDer::try_from(leaf.key.serialize_der()).unwrap();
        identity.own.set(Svid::new(vec![leaf.der().clone()], key).unwrap())
    };
    assert_eq!(who(0), Err(Who::Invalid(Reason::OwnSvidUnavailable)));
    assert_eq!(identity.own_id(), None);
    assert!(take(&root.svid(ID)));
    assert_eq!(who(0), Ok(format!("{ID} by self")));
    assert_eq!(outcome(identity.who(None, None, &egress, NOW)), Ok(format!("{ID} by self")));
    assert_eq!(identity.own_id().as_deref(), Some(ID));
    assert_eq!(who(1801), Err(Who::Invalid(Reason::SvidExpired)));
    // Rotated, also to another identity; then to what is no SVID; then withdrawn.
    assert!(take(&root.svid("spiffe://td.test/new")));
    assert_eq!(who(0), Ok("spiffe://td.test/new by self".to_owned()));
    assert!(take(&root.leaf(&[], |_| ())));
    assert_eq!(who(0), Err(Who::Invalid(Reason::NoUriSan)));
    assert_eq!(identity.own_id(), None);
    identity.own.withdraw();
    assert_eq!(who(0), Err(Who::Invalid(Reason::OwnSvidUnavailable)));
}

#[test]
fn memory_for_many_good_certificates_is_bounded() {
    let root = Authority::new("root");
    let identity = identity(&BundleFolder::new(&[("td.test", &[&root])]));
    // One certificate in many spellings: each is a key of its own, as many certificates would be.
    let text = root.svid(ID).text();
    let (head, tail) = text.split_at(text.len() - 3);
    for number in 0..12_000 {
        let spelling = format!("{head}{}{}", "%0A".repeat(number % 400), "%0D".repeat(number / 400));
        assert!(ask(&identity, &(spelling + tail), PeerProof::Sidecar).is_ok());
    }
    identity.checked.run_pending_tasks();
    assert!(identity.checked.weighted_size() <= CACHE_BYTES, "{}", identity.checked.weighted_size());
    assert!(identity.checked.entry_count() < 12_000);
    assert!(ask(&identity, &text, PeerProof::Sidecar).is_ok(), "what fell out is checked again");
}
