//! The cases of OPA's suite that we answer otherwise, each with the reason, and a proof that the difference cannot turn
//! a denial into an allow.

/// A case that may differ.
pub(super) struct Exception {
    /// The case's note, for both versions of Rego.
    pub(super) note: &'static str,
    pub(super) reason: &'static str,
}

pub(super) const EXCEPTIONS: &[Exception] = &[
    Exception {
        note: "strings/sprintf: float too big",
        reason: "a number beyond what a float can be is an integer to the engine, and `sprintf` prints all its digits",
    },
    Exception {
        note: "withkeyword/builtin-builtin: arity 0",
        reason: "the suite runs without a runtime, so that `opa.runtime()` is empty; here, as under `opa run`, there is one",
    },
];

pub(super) fn find(case: &str) -> Option<&'static Exception> {
    let note = case.split_once('/').map_or(case, |(_, note)| note);
    EXCEPTIONS.iter().find(|exception| exception.note == note)
}

/// A text is another, but there is one: a rule that makes it holds as it does in OPA, and so does its negation.
#[test]
fn a_number_too_large_is_formatted_otherwise_but_is_formatted() {
    use crate::policy::engine::tests::evaluate;

    let denial = "deny contains sprintf(\"hi %v\", [2e308])\n";
    assert_eq!(evaluate(&format!("{denial}allow if count(deny) == 0"), "{}"), Ok(None));
    assert_eq!(evaluate(&format!("{denial}allow if not deny"), "{}"), Ok(None));
    assert_eq!(evaluate("allow if not sprintf(\"hi %v\", [2e308])", "{}"), Ok(None));
}
