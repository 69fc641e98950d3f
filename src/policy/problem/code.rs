//! Every kind of problem: its word, how grave it is, what OPA does with the same source, what would happen here if it were
//! let through, and what to write instead. This table is what `doorward check` explains by.

use std::fmt;

use serde::{Serialize, Serializer};

/// How grave a problem is. Only errors keep a policy set from being loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Error,
    Warning,
    Note,
}

/// What a kind of problem is about, in sentences without a full stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub opa: &'static str,
    pub effect: &'static str,
    pub remedy: &'static str,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident => $word:literal, $severity:ident, $opa:literal, $effect:literal, $remedy:literal;)+) => {
        /// The kind of a problem, as a word that scripts may match.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($(#[doc = $doc])+ $variant,)+ }

        impl Code {
            #[cfg(test)]
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)+ }
            }

            pub const fn explanation(self) -> Explanation {
                match self { $(Self::$variant => Explanation { opa: $opa, effect: $effect, remedy: $remedy },)+ }
            }
        }
    };
}

codes! {
    /// A file or folder cannot be read.
    Unreadable => "unreadable", Error, "refuses it too", "the policy would be incomplete",
        "check the path, its owner and its permissions";
    /// What a path names is no policy source.
    UnknownSource => "unknown_source", Error, "ignores it", "the policy would be incomplete",
        "name a folder, a `.rego`, `.json` or `.yaml` file, or a `.tar.gz` bundle";
    /// A file, or all of them together, exceed `policy.limits`.
    TooLarge => "too_large", Error, "loads it, whatever it costs", "memory would not be bounded",
        "split the file, or raise the limit under `policy.limits`";
    /// An archive is no bundle, or holds what doorward cannot run.
    Bundle => "bundle", Error, "loads the kinds of bundle that it can run", "what decides would not be what was built",
        "build the bundle with `opa build --target rego`";
    /// A bundle is not signed as the configuration asks for.
    Signature => "signature", Error, "refuses it too", "somebody else's policy could decide",
        "sign the bundle with `opa sign` and a key of `policy.signing`, or write `unsigned: true` by name";
    /// A bundle is older than one that was in force.
    Rollback => "rollback", Error, "loads it", "a mended hole could be opened again",
        "build the bundle with a newer revision; to go back on purpose, delete its revision file in `policy.cache`";
    /// A bundle that has not come over the network yet.
    NotFetched => "not_fetched", Error, "waits for it too", "the policy would be incomplete",
        "check the address, the credentials and the server; `policy.cache` lets a start do without";
    /// What `policy.cache` keeps cannot be used.
    Cache => "cache", Error, "refuses it too", "a damaged policy could decide",
        "delete the file; it is fetched again";
    /// A module or data lie outside the `roots` of their bundle.
    Roots => "roots", Error, "refuses it too", "one bundle could change what another decides",
        "add the path to `roots` in the manifest, or move the file";
    /// Rego, JSON or YAML that does not parse.
    Parse => "parse", Error, "refuses it too, with few exceptions of syntax", "there would be nothing to evaluate",
        "mend the syntax at this place";
    /// A document below `data.doorward` cannot be used.
    Document => "document", Error, "knows no such documents", "what the entry was meant to forbid would be allowed",
        "correct the entry; policies/README.md lists the keys";
    /// Two sources say different things about one document.
    Conflict => "conflict", Error, "refuses it too", "which of them holds would depend on their order",
        "keep one of the two";
    /// Several rules or a package claim one path in ways that do not go together.
    RuleConflict => "rule_conflict", Error, "refuses it: rego_type_error, conflicting rules", "one of them would silently hide the other",
        "give one of them another name";
    /// A rule or function has more than one default.
    MultipleDefaults => "multiple_defaults", Error, "refuses it: rego_type_error, multiple default rules",
        "which of them holds would depend on their order", "keep one default";
    /// A package lies at or below the path of a rule.
    PackageConflict => "package_conflict", Error, "refuses it: rego_type_error, package conflicts with rule",
        "the package's rules would hide the rule, or the rule them", "rename the package or the rule";
    /// The Rego does not compile.
    Compile => "compile", Error, "refuses most of the same", "it could not be evaluated", "mend what the text names";
    /// The rule that decides does not exist.
    NoDecision => "no_decision", Error, "answers undefined", "every call would be denied",
        "name an existing rule in `policy.decision`";
    /// The rule that decides has no default, and may have no answer.
    UndefinedDecision => "undefined_decision", Note, "answers undefined where no body holds",
        "a call without an answer is denied, with the reason that the policy is undefined",
        "write `default` for the rule, to say so yourself";
    /// A rule depends on itself.
    Recursion => "recursion", Error, "refuses it: rego_recursion_error", "the evaluation would overflow the stack and end the process",
        "break the cycle";
    /// Rules call each other, or expressions nest, deeper than is safe to evaluate.
    TooDeep => "too_deep", Error, "evaluates it on a growing stack", "the evaluation would overflow the stack and end the process",
        "break the expression or the chain up, or raise `policy.limits.depth`";
    /// The policy set takes longer to compile than `policy.limits.compile`.
    TooSlow => "too_slow", Error, "compiles it for as long as it takes", "a reload would keep a processor busy",
        "split what is largest, or raise `policy.limits.compile`";
    /// A function that talks to the world outside.
    IoBuiltin => "io_builtin", Error, "makes the call, and the request waits for it", "a decision would depend on the network",
        "put what it fetches into the data of the bundle, or into the input";
    /// A function that neither the engine nor the policy set has.
    UnknownFunction => "unknown_function", Error, "refuses it: rego_type_error, undefined function",
        "the rule would fail only when it runs", "define the function, import its package, or do without it";
    /// A function of OPA's that is not carried out here.
    UnsupportedFunction => "unsupported_function", Error, "carries it out", "the rule would fail only when it runs",
        "work out what the call gives where the policy or its data are built, or with `opa eval` in a build step";
    /// A call with too few or too many arguments.
    Arity => "arity", Error, "refuses it: rego_type_error, arity mismatch", "the rule would fail only when it runs",
        "pass as many arguments as the function takes";
    /// A function named without being called.
    FunctionReference => "function_reference", Error, "refuses it: rego_type_error, used as reference, not called",
        "the reference would be undefined", "call the function";
    /// A function replaced by `with`.
    FunctionMock => "function_mock", Error, "replaces the function", "the engine and OPA differ in what is replaced",
        "keep it to tests (files named `*_test.rego`), and pass what differs as an argument";
    /// `with` for what is neither the input, a document nor a function.
    WithTarget => "with_target", Error, "refuses it: rego_type_error, with keyword target must reference existing input, data, or a function",
        "nothing would be replaced", "name a path below `input` or `data`";
    /// Data at the path of a rule, or too much of it beside rules.
    DataUnderPackage => "data_under_package", Error, "refuses what meets a rule, and mixes the rest", "data would hide rules, or be copied for each call",
        "keep large data and packages at paths of their own";
    /// A variable that nothing binds.
    UnsafeVariable => "unsafe_variable", Error, "refuses it: rego_unsafe_var_error", "the rule would be undefined, or loop over everything",
        "bind the variable before it is read, or correct its name";
    /// A variable or wildcard that only a negation has.
    UnsafeNegation => "unsafe_negation", Error, "refuses it: rego_unsafe_var_error",
        "the negation would be true as soon as one element does not match, which allows too much",
        "bind the variable before, or negate a rule that has the loop in it";
    /// A variable assigned or declared twice.
    Redeclared => "redeclared", Error, "refuses it: rego_compile_error, var assigned or declared above", "the later value would hide the earlier one",
        "give the second one another name, or compare with `==`";
    /// A variable read before the `:=` or `some` that declares it.
    ReferencedAbove => "referenced_above", Error, "refuses it: rego_compile_error, var referenced above",
        "which value is meant would depend on the order of statements", "declare the variable before its first use";
    /// An argument of a function declared again.
    ArgumentRedeclared => "argument_redeclared", Error, "refuses it: rego_compile_error, arg redeclared", "the argument would be hidden",
        "give the variable another name";
    /// `:=` with something on its left that cannot be assigned to.
    AssignmentTarget => "assignment_target", Error, "refuses it: rego_compile_error, cannot assign", "it would be a comparison in disguise",
        "assign to a variable, or compare with `==`";
    /// `:=` under `not`.
    NegatedAssignment => "negated_assignment", Error, "refuses it: rego_compile_error, cannot assign vars inside negated expression",
        "the variable would be bound nowhere", "assign before, and negate a comparison";
    /// `some x` for a variable that is not used.
    UnusedDeclaration => "unused_declaration", Error, "refuses it: rego_compile_error, declared var unused", "nothing, but it is a mistake",
        "remove the declaration, or use the variable";
    /// `input` or `data` as the name of something else.
    ReservedName => "reserved_name", Error, "refuses it: variables must not shadow input or data", "the real document would be hidden",
        "use another name";
    /// Two imports under one name.
    ImportConflict => "import_conflict", Error, "refuses it: rego_compile_error, import must not shadow import", "one import would hide the other",
        "give one of them an alias: `import data.x as y`";
    /// A default that is computed.
    DefaultValue => "default_value", Error, "refuses it: rego_parse_error, illegal default rule", "the default could be undefined itself",
        "write a constant, and compute in a rule";
    /// A default for a name with brackets.
    DefaultReference => "default_reference", Error, "answers it by what the brackets hold", "the default would hold for other names too",
        "give the rule a plain name";
    /// An import that changes the language.
    Experimental => "experimental", Error, "accepts it, as an experiment", "statements would mean something else than they say",
        "remove the import";
    /// Rego that the engine is known to answer wrongly.
    Unsupported => "unsupported", Error, "answers it", "the answer would be another than OPA's", "write it in the way the text says";
    /// A variable that is assigned and never read.
    UnusedVariable => "unused_variable", Warning, "refuses it in strict mode", "nothing; often it is a name misspelt",
        "remove it, or name it `_`";
    /// Much data beside rules.
    DataBesideRules => "data_beside_rules", Warning, "answers with both", "each call copies the keys, which takes time",
        "move the data one key deeper: `data.authz.users.…` in the place of `data.authz.…`";
    /// An import that nothing uses.
    UnusedImport => "unused_import", Warning, "refuses it in strict mode", "nothing; often it is a name misspelt", "remove the import";
    /// A variable with the name of a rule or an import.
    Shadowed => "shadowed", Warning, "takes the variable", "the rule or import of that name cannot be reached there",
        "give the variable another name";
    /// The policy fails even for an empty input.
    Smoke => "smoke", Error, "answers with an evaluation error", "every call might be denied", "mend the rule at this place";
    /// The engine itself failed.
    Internal => "internal", Error, "is not concerned", "nothing would be decided", "report it, with the policy";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_code_has_its_own_word_and_explains_itself() {
        let words: HashSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), Code::ALL.len());
        for code in Code::ALL {
            let Explanation { opa, effect, remedy } = code.explanation();
            assert!([opa, effect, remedy].iter().all(|text| !text.is_empty() && !text.ends_with('.')), "{code}");
        }
    }
}
