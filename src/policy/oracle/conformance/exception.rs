//! The cases of OPA's suite that we answer otherwise, each with the reason, and a proof that the difference cannot turn
//! a denial into an allow.

/// A case that may differ.
pub(super) struct Exception {
    /// The case's note, for both versions of Rego.
    pub(super) note: &'static str,
    pub(super) reason: &'static str,
}

const SPRINTF: &str = "sprintf prints a number that is written with an exponent, and one too large for a float, in full; a text \
                       that is compared is another one, and does not match";

pub(super) const EXCEPTIONS: &[Exception] = &[
    Exception {
        note: "withkeyword/builtin-builtin: arity 0",
        reason: "the suite runs without a runtime, so that `opa.runtime()` is empty; here, as under `opa run`, there is one",
    },
    Exception { note: "sprintf/float/exponent", reason: SPRINTF },
    Exception { note: "strings/sprintf: float too big", reason: SPRINTF },
];

pub(super) fn find(case: &str) -> Option<&'static Exception> {
    let note = case.split_once('/').map_or(case, |(_, note)| note);
    EXCEPTIONS.iter().find(|exception| exception.note == note)
}
