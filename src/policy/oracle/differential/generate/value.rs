//! The data that every policy can read, and random inputs.

use fastrand::Rng;
use serde_json::{Map, Value as Json, json};

/// Data of its own, and some beside the rules of packages.
pub(in crate::policy::oracle::differential) fn data() -> Json {
    json!({
        "conf": {
            "roles": {"ann": ["a", "b"], "bob": []},
            "limits": {"a": 1, "b": 2.5},
            "list": [1, "a", null, [1], {"a": 1}],
            "on": true,
        },
        "t": {"base": {"a": 1, "k": [1, "b"]}, "sub": {"b": {"a": "x"}}},
    })
}

const WORDS: [&str; 10] = ["a", "b", "ann", "bob", "/a/b", "x-y", "", "GET", "k", "é"];
/// Texts that functions of time, units, versions and addresses can read, or just cannot.
const FORMATTED: [&str; 16] = [
    "2026-11-22T10:00:00Z",
    "2026-02-30T10:00:00Z",
    "10:00",
    "2026-11-22T10:00:00.5+02:00",
    "1h30m",
    "-1.5s",
    "10Ki",
    "2.5MB",
    "1.2.3",
    "1.2.3-a.1",
    "10.1.2.3",
    "10.0.0.0/30",
    "::1",
    "[1, {\"a\": 2}]",
    "YWI=",
    "1e3",
];
pub(super) const KEYS: [&str; 7] = ["u", "r", "n", "m", "s", "t", "w"];

pub(in crate::policy::oracle::differential) fn input(rng: &mut Rng) -> Json {
    let mut fields = Map::new();
    for key in KEYS {
        if rng.u8(..8) > 0 {
            let value = match (key, rng.u8(..5)) {
                (_, 0) => value(rng, 2),
                ("r", _) => (0..rng.usize(..4)).map(|_| word(rng)).collect(),
                ("n", _) => number(rng),
                ("m", _) => object(rng, 1),
                ("s", _) => (0..rng.usize(..3)).map(|_| object(rng, 1)).collect(),
                ("t" | "w", _) => json!(FORMATTED[rng.usize(..FORMATTED.len())]),
                _ => word(rng),
            };
            fields.insert(key.to_owned(), value);
        }
    }
    Json::Object(fields)
}

pub(super) fn word(rng: &mut Rng) -> Json {
    json!(WORDS[rng.usize(..WORDS.len())])
}

pub(super) fn number(rng: &mut Rng) -> Json {
    match rng.u8(..9) {
        0 => json!(0.5),
        1 => json!(-3),
        2 => json!(9_007_199_254_740_993_i64),
        3 => json!(1_795_341_600_000_000_000_i64),
        4 => json!(18_446_744_073_709_551_615_u64),
        _ => json!(rng.u8(..4)),
    }
}

fn object(rng: &mut Rng, depth: u8) -> Json {
    (0..rng.usize(..4)).map(|_| (["a", "b", "k"][rng.usize(..3)].to_owned(), value(rng, depth))).collect::<Map<_, _>>().into()
}

fn value(rng: &mut Rng, depth: u8) -> Json {
    match rng.u8(..if depth == 0 { 4 } else { 6 }) {
        0 => word(rng),
        1 => number(rng),
        2 => json!(rng.bool()),
        3 => Json::Null,
        4 => (0..rng.usize(..3)).map(|_| value(rng, depth - 1)).collect(),
        _ => object(rng, depth - 1),
    }
}
