//! Random policies and inputs (`generate`), answered by our engine room and by the real `opa`. What is refused at load is
//! counted by code; every other difference ends the run with the smallest policy that shows it.

mod generate;
mod opa;

use std::{collections::BTreeMap, env, fmt::Write, time::Duration};

use regorus::Value;
use serde_json::Value as Json;

use self::{
    generate::{Generator, Policy, Seen},
    opa::{Opa, PANIC},
};
use super::{canonical, config, peer, sources};
use crate::{
    config::RegoVersion,
    policy::{
        engine::{Abandoned, PolicySet},
        input::Input,
    },
};

const LIMIT: Duration = Duration::from_secs(5);
const INPUTS: usize = 20;
/// Differences after which a run has told enough.
const ENOUGH: usize = 8;

/// A difference that is known, and how it is known from the policy and both answers.
struct Exception {
    name: &'static str,
    applies: fn(&str, &Answer, &Answer) -> bool,
}

/// None of them can allow more than OPA: of an error a call is denied, and a text is another than what is wished.
const EXCEPTIONS: [Exception; 3] = [
    Exception { name: "sprintf with a verb for another kind", applies: |text, _, _| text.contains("sprintf(\"%d") },
    Exception {
        name: "two values of a function, where OPA fails before it calls it",
        applies: |_, ours, theirs| theirs.is_ok() && ours.as_ref().is_err_and(|error| error.contains("produced")),
    },
    Exception {
        name: "every that reads what walk bound",
        applies: |text, ours, _| {
            let is_unsafe = ours.as_ref().is_err_and(|error| error.contains("is unsafe"));
            is_unsafe && text.contains("walk(") && text.contains("every ")
        },
    },
];

/// An answer, or the error, any of which is like any other.
type Answer = Result<String, String>;

fn alike(ours: &Answer, theirs: &Answer) -> bool {
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => ours == theirs,
        (Err(_), Err(_)) => true,
        _ => false,
    }
}

/// OPA's answer; it writes keys that are no text with more escapes than we do.
fn of_opa(answer: Result<Json, String>) -> Answer {
    let escapes = [(r"\\u003c", "<"), (r"\\u003e", ">"), (r"\\u0026", "&")];
    answer.map(|answer| escapes.iter().fold(canonical(&answer), |text, (escape, plain)| text.replace(escape, plain)))
}

#[derive(Default)]
struct Tally {
    pairs: usize,
    policies: usize,
    errors: usize,
    refused: BTreeMap<String, usize>,
    refused_by_opa: BTreeMap<String, usize>,
    differences: Vec<String>,
    /// The differences that are exceptions, by name.
    listed: BTreeMap<&'static str, usize>,
    /// What the compared policies held.
    seen: Seen,
}

#[test]
fn random_policies_are_answered_as_by_opa_or_refused() {
    let Some(program) = peer("bin/opa", "DIFFERENTIAL_PAIRS") else { return };
    let number = |name, or| env::var(name).map_or(or, |text| text.parse().unwrap());
    let (pairs, seed) = (number("DIFFERENTIAL_PAIRS", 20_000), number("DIFFERENTIAL_SEED", 1));
    let run = move || {
        let opa = Opa::start(&program, &generate::data());
        let mut generator = Generator::new(seed);
        let mut tally = Tally::default();
        while (tally.pairs as u64) < pairs && tally.differences.len() < ENOUGH {
            let policy = generator.policy();
            let inputs: Vec<_> = (0..INPUTS).map(|_| generate::input(&mut generator.rng)).collect();
            compare(&opa, &policy, &inputs, &mut tally);
        }
        tally
    };
    let tally = std::thread::Builder::new().stack_size(64 << 20).spawn(run).unwrap().join().unwrap();
    let Tally { pairs, policies, errors, refused, refused_by_opa, differences, listed, seen } = tally;
    println!("seed {seed}: {pairs} pairs, {policies} policies, {errors} errors in both");
    println!("refused here {refused:?}, by OPA too or for types {refused_by_opa:?}");
    println!("exceptions {listed:?}");
    println!("policies with {}", seen.told());
    assert!(policies < 100 || seen.missing().is_empty(), "never generated: {:?}", seen.missing());
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

fn load(policy: &Policy) -> Result<PolicySet, String> {
    let sources = sources(policy.modules(), generate::data());
    PolicySet::compile(sources, &config("t/answer", RegoVersion::V1), &Abandoned::default()).map_err(|error| {
        if env::var_os("DIFFERENTIAL_DETAIL").is_some() {
            eprintln!("refusal: {error}");
        }
        error.problems.first().map_or_else(String::new, |problem| problem.code.to_string())
    })
}

fn ours(set: &PolicySet, input: &Json) -> Answer {
    let answer = set.evaluate(&Input { value: Value::from(input.clone()), now_ns: 0 }, LIMIT);
    answer.map(|answer| canonical(&answer.unwrap_or(Json::Null))).map_err(|failure| failure.detail)
}

fn compare(opa: &Opa, policy: &Policy, inputs: &[Json], tally: &mut Tally) {
    let theirs = opa.load(&policy.modules());
    let set = match (load(policy), theirs) {
        (Err(code), Ok(())) => {
            if env::var_os("DIFFERENTIAL_DETAIL").is_some() {
                eprintln!("refused here: {code}\n{}", text(policy));
            }
            return *tally.refused.entry(code).or_default() += 1;
        }
        (Err(code), Err(error)) => {
            if env::var_os("DIFFERENTIAL_DETAIL").is_some() {
                eprintln!("{code}: {error}\n{}", text(policy));
            }
            return *tally.refused_by_opa.entry(code).or_default() += 1;
        }
        // OPA's compiler refuses what its type checker sees; we find that out when it is evaluated, as undefined.
        (Ok(_), Err(error)) if error.contains("rego_type_error") => {
            if env::var_os("DIFFERENTIAL_DETAIL").is_some() {
                eprintln!("type: {error}");
            }
            return *tally.refused_by_opa.entry("type".to_owned()).or_default() += 1;
        }
        (Ok(_), Err(error)) if error.contains(PANIC) => return *tally.refused_by_opa.entry("panic".to_owned()).or_default() += 1,
        (Ok(_), Err(error)) => return tally.differences.push(format!("OPA refuses it: {error}\n{}", text(policy))),
        (Ok(set), Ok(())) => set,
    };
    tally.policies += 1;
    tally.seen.add(policy);
    for (input, answer) in inputs.iter().zip(opa.answers(inputs)) {
        if answer.as_ref().is_err_and(|error| error.contains(PANIC)) {
            *tally.refused_by_opa.entry("panic".to_owned()).or_default() += 1;
            continue;
        }
        tally.pairs += 1;
        let ours = ours(&set, input);
        let theirs = of_opa(answer);
        if alike(&ours, &theirs) {
            tally.errors += usize::from(ours.is_err());
            continue;
        }
        let text = text(policy);
        if let Some(exception) = EXCEPTIONS.iter().find(|exception| (exception.applies)(&text, &ours, &theirs)) {
            *tally.listed.entry(exception.name).or_default() += 1;
            continue;
        }
        return tally.differences.push(told(opa, policy, input));
    }
}

/// Both answers, where they differ.
fn difference(opa: &Opa, policy: &Policy, input: &Json) -> Option<(Answer, Answer)> {
    let set = load(policy).ok()?;
    opa.load(&policy.modules()).ok()?;
    let theirs = of_opa(opa.answers(std::slice::from_ref(input)).pop()?);
    let ours = ours(&set, input);
    (!alike(&ours, &theirs)).then_some((ours, theirs))
}

/// The difference in the smallest policy that still has it.
fn told(opa: &Opa, policy: &Policy, input: &Json) -> String {
    let mut least = policy.clone();
    let mut text_of_it = String::new();
    while let Some(smaller) = smaller(&least).into_iter().find(|policy| difference(opa, policy, input).is_some()) {
        least = smaller;
    }
    let _ = write!(text_of_it, "--- input {input}\n{}", text(&least));
    if let Some((ours, theirs)) = difference(opa, &least, input) {
        let _ = write!(text_of_it, "here {ours:?}\nOPA  {theirs:?}\n");
    }
    text_of_it
}

/// The policy without one rule, or without one statement.
fn smaller(policy: &Policy) -> Vec<Policy> {
    let mut found = Vec::new();
    for (module, rules) in policy.modules.iter().enumerate() {
        for (index, rule) in rules.iter().enumerate() {
            let mut without = policy.clone();
            without.modules[module].remove(index);
            found.push(without);
            for statement in 0..rule.body.len() {
                let mut without = policy.clone();
                without.modules[module][index].body.remove(statement);
                found.push(without);
            }
            if !rule.tail.is_empty() {
                let mut without = policy.clone();
                without.modules[module][index].tail.clear();
                found.push(without);
            }
        }
    }
    found
}

fn text(policy: &Policy) -> String {
    policy.modules().into_iter().map(|(_, text)| text).collect()
}
