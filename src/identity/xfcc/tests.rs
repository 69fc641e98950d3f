//! Envoy's form, and every way to write it otherwise.

use proptest::prelude::*;

use super::*;
use crate::trust::testing::{Authority, Leaf, escape};

const ID: &str = "spiffe://td.test/ns/a/sa/b";

fn hash(leaf: &Leaf) -> String {
    hex::encode(digest::digest(&digest::SHA256, leaf.der()))
}

fn intermediates(text: &str, leaf: &CertificateDer<'_>) -> Result<Vec<CertificateDer<'static>>, Reason> {
    Header::parse(text)?.intermediates(leaf)
}

fn chain(certificates: &[String]) -> String {
    format!("\"{}\"", escape(&certificates.concat()))
}

#[test]
fn elements_are_read_by_envoys_rules() {
    let pair = |(key, value): &(&str, Cow<'_, str>)| format!("{}:{value}", key.to_ascii_lowercase());
    let pairs = |element: &Element<'_>| element.0.iter().map(pair).collect::<Vec<_>>().join("|");
    for (text, expected) in [
        ("Hash=ab", Some(vec!["hash:ab"])),
        ("By=a;Hash=b,By=c;Hash=d", Some(vec!["by:a|hash:b", "by:c|hash:d"])),
        (r#"Subject="CN=a,O=\"b;c\"";URI=x"#, Some(vec![r#"subject:CN=a,O="b;c"|uri:x"#])),
        (r#"Subject="";URI="#, Some(vec!["subject:|uri:"])),
        ("URI=a=b;URI=c", Some(vec!["uri:a=b|uri:c"])),
        ("By=a, By=b", Some(vec!["by:a", "by:b"])),
        (r#"Subject="a\\";Hash=b"#, Some(vec![r"subject:a\|hash:b"])),
        (r#"Subject="\"a\é\"b";Hash=b"#, Some(vec![r#"subject:"aé"b|hash:b"#])),
        (r#"Subject="a\"#, None),
        ("", None),
        ("Hash", None),
        ("=a", None),
        ("Hash=a;", None),
        ("Hash=a,", None),
        (",Hash=a", None),
        (r#"Subject="a"#, None),
        (r#"Subject="a"b;Hash=c"#, None),
        (r#"Subject=a"b"#, None),
        ("Ha sh=a", None),
    ] {
        let found = elements(text).ok().map(|elements| elements.iter().map(pairs).collect::<Vec<_>>());
        assert_eq!(found, expected.map(|all| all.into_iter().map(str::to_owned).collect::<Vec<_>>()), "{text}");
    }
}

#[test]
fn an_element_counts_for_its_own_leaf_only() {
    let root = Authority::new("root");
    let between = root.intermediate("between", |_| ());
    let (leaf, other) = (between.svid(ID), between.svid(ID));
    let (pem, between) = (leaf.certificate.pem(), between.certificate.pem());
    let whole = chain(&[pem.clone(), between]);
    let (own, foreign) = (hash(&leaf), hash(&other));
    for (name, text, expected) in [
        ("Envoy's own", format!("By=spiffe://td.test/e;Hash={own};Chain={whole};URI={ID}"), Ok(1)),
        ("upper case", format!("hash={};chain={whole}", own.to_ascii_uppercase()), Ok(1)),
        ("no chain", format!("Hash={own};URI={ID}"), Ok(0)),
        ("only the leaf", format!("Hash={own};Chain={}", chain(std::slice::from_ref(&pem))), Ok(0)),
        ("a client's element before it", format!("Hash={foreign};Chain=\"x\",Hash={own};Chain={whole}"), Ok(1)),
        ("a client's element after it", format!("Hash={own};Chain={whole},Hash={foreign}"), Err(Reason::XfccMismatch)),
        ("another certificate's hash", format!("Hash={foreign};Chain={whole}"), Err(Reason::XfccMismatch)),
        (
            "another leaf in the chain",
            format!("Hash={own};Chain={}", chain(&[other.certificate.pem()])),
            Err(Reason::XfccMismatch),
        ),
        ("no hash", format!("Chain={whole}"), Err(Reason::XfccMismatch)),
        ("a short hash", "Hash=ab".to_owned(), Err(Reason::XfccMismatch)),
        ("a hash that is none", "Hash=zz".to_owned(), Err(Reason::XfccMalformed)),
        ("two hashes", format!("Hash={own};Hash={own}"), Err(Reason::XfccMalformed)),
        ("a chain that is none", format!("Hash={own};Chain=\"x\""), Err(Reason::XfccMalformed)),
        ("a hash within a subject", format!(r#"Subject="a;Hash={own}";URI=b"#), Err(Reason::XfccMismatch)),
        ("too long a chain", format!("Hash={own};Chain={}", chain(&vec![pem; MAX_CHAIN + 1])), Err(Reason::XfccMalformed)),
        ("too many elements", format!("{}Hash={own}", "Hash=ab,".repeat(MAX_ELEMENTS)), Err(Reason::XfccMalformed)),
        ("too long", format!("Hash={own};Subject=\"{}\"", "a".repeat(MAX_TEXT)), Err(Reason::XfccMalformed)),
        ("a broken element before it", format!("x,Hash={own}"), Err(Reason::XfccMalformed)),
    ] {
        assert_eq!(intermediates(&text, leaf.der()).map(|chain| chain.len()), expected, "{name}");
    }
}

#[test]
fn what_came_before_is_told_apart_and_never_believed() {
    let text =
        format!("By=spiffe://td.test/e;By=spiffe://td.test/f;Hash=aa;Subject=\"CN=a\";URI={ID};DNS=a;DNS=b,URI=x,Hash=bb;URI=y");
    let forwarded = Header::parse(&text).unwrap().forwarded();
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let first = Forwarded {
        by: owned(&["spiffe://td.test/e", "spiffe://td.test/f"]),
        hash: Some("aa".to_owned()),
        subject: Some("CN=a".to_owned()),
        uri: owned(&[ID]),
        dns: owned(&["a", "b"]),
    };
    assert_eq!(forwarded, [first, Forwarded { uri: owned(&["x"]), ..Forwarded::default() }]);
    assert!(Header::parse("Hash=bb;URI=y").unwrap().forwarded().is_empty());
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[ -~é]{0,200}", leaf in proptest::collection::vec(any::<u8>(), 0..50)) {
        prop_assert!(intermediates(&text, &CertificateDer::from(leaf)).is_err());
    }
}
