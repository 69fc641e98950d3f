//! What is wrong with a policy set, said so that its author can mend it: place, code word, text with remedy.

use std::fmt;

use regorus::unstable::Span;
use serde::Serialize;

/// Why a policy set was refused. Prints one line for each problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", Listing(problems))]
pub struct LoadError {
    pub problems: Vec<Problem>,
}

/// One mistake in the sources. Prints as `file:line:column: text [code]`, without what is not known of the place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub code: Code,
    /// The source as `policy.bundles` leads to it; a file inside an archive is `archive.tar.gz/inner/file.rego`.
    pub file: String,
    /// From 1; 0 when unknown.
    pub line: u32,
    /// From 1, in characters; 0 when unknown.
    pub column: u32,
    /// What is wrong, and what to do about it.
    pub text: String,
}

impl Problem {
    /// A problem of a whole file.
    pub(super) fn of_file(code: Code, file: impl Into<String>, text: impl Into<String>) -> Self {
        Self { code, file: file.into(), line: 0, column: 0, text: text.into() }
    }
}

/// A problem of the place that `span` begins at.
pub(super) fn problem_at(code: Code, span: &Span, text: String) -> Problem {
    Problem { code, file: span.source.get_path().clone(), line: span.line, column: span.col, text }
}

impl From<Problem> for LoadError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, file, line, column, text } = self;
        match (line, column) {
            (0, _) => write!(f, "{file}: {text} [{code}]"),
            (_, 0) => write!(f, "{file}:{line}: {text} [{code}]"),
            _ => write!(f, "{file}:{line}:{column}: {text} [{code}]"),
        }
    }
}

struct Listing<'a>(&'a [Problem]);

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{problem}")?;
        }
        Ok(())
    }
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident => $text:literal,)+) => {
        /// The kind of a problem, as a word that scripts may match.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Code { $($(#[doc = $doc])+ $variant,)+ }

        impl Code {
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

codes! {
    /// A file or folder cannot be read.
    Unreadable => "unreadable",
    /// What a path names is no policy source.
    UnknownSource => "unknown_source",
    /// A file, or all of them together, exceed `policy.limits`.
    TooLarge => "too_large",
    /// An archive is no bundle, or holds what doorward cannot run.
    Bundle => "bundle",
    /// A bundle is not signed as the configuration asks for.
    Signature => "signature",
    /// A bundle is older than one that was in force.
    Rollback => "rollback",
    /// A bundle that has not come over the network yet.
    NotFetched => "not_fetched",
    /// What `policy.cache` keeps cannot be used.
    Cache => "cache",
    /// A module or data lie outside the `roots` of their bundle.
    Roots => "roots",
    /// Rego, JSON or YAML that does not parse.
    Parse => "parse",
    /// Two sources say different things about one document.
    Conflict => "conflict",
    /// The Rego does not compile.
    Compile => "compile",
    /// The rule that decides does not exist.
    NoDecision => "no_decision",
    /// A rule depends on itself.
    Recursion => "recursion",
    /// Rules call each other, or expressions nest, deeper than is safe to evaluate.
    TooDeep => "too_deep",
    /// The policy set takes longer to compile than `policy.limits.compile`.
    TooSlow => "too_slow",
    /// A function that talks to the world outside.
    IoBuiltin => "io_builtin",
    /// A function that neither the engine nor the policy set has.
    UnknownFunction => "unknown_function",
    /// A function replaced by `with`.
    FunctionMock => "function_mock",
    /// Data at or below the path of a package.
    DataUnderPackage => "data_under_package",
    /// A variable that nothing binds.
    UnsafeVariable => "unsafe_variable",
    /// A variable or wildcard that only a negation has.
    UnsafeNegation => "unsafe_negation",
    /// Rego that the engine is known to answer wrongly.
    Unsupported => "unsupported",
    /// The policy fails even for an empty input.
    Smoke => "smoke",
    /// The engine itself failed.
    Internal => "internal",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
