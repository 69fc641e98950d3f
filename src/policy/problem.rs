//! What is wrong with a policy set, said so that its author can mend it: place, code word, text with remedy. What each
//! kind means is `code`'s.

mod code;

use std::fmt;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use regorus::unstable::Span;
use serde::{Serialize, Serializer, ser::SerializeStruct};

pub use self::code::{Code, Explanation, Severity};

/// Why a policy set was refused. Prints one line for each problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", Listing(problems))]
pub struct LoadError {
    pub problems: Vec<Problem>,
}

/// One finding in the sources. Prints as `file:line:column: text [code]`, without what is not known of the place.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// The line of the source that it is about, where there is one.
    pub source: Option<String>,
}

impl Problem {
    /// A problem of a whole file.
    pub(super) fn of_file(code: Code, file: impl Into<String>, text: impl Into<String>) -> Self {
        Self { code, file: file.into(), line: 0, column: 0, text: text.into(), source: None }
    }

    pub fn severity(&self) -> Severity {
        self.code.severity()
    }

    /// For people: the source line with a caret, what OPA does, what would happen, and what to write instead.
    pub fn report(&self, colour: bool) -> String {
        let Explanation { opa, effect, remedy } = self.code.explanation();
        let level = match self.severity() {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
            Severity::Note => Level::NOTE,
        };
        let title = level.primary_title(self.text.as_str()).id(self.code.as_str());
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let notes = [format!("OPA {opa}"), format!("otherwise: {effect}")];
        let explained = |mut group: annotate_snippets::Group<'_>| {
            for note in &notes {
                group = group.element(Level::NOTE.message(note.clone()));
            }
            renderer.render(&[group.element(Level::HELP.message(remedy))])
        };
        match &self.source {
            Some(source) if self.line > 0 => {
                let start: usize = source.chars().take(self.column.saturating_sub(1) as usize).map(char::len_utf8).sum();
                let rest = source.get(start..).unwrap_or_default();
                let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|length| *length > 0);
                let end = start
                    + length.unwrap_or_else(|| if rest.is_empty() { 0 } else { rest.chars().next().map_or(0, char::len_utf8) });
                let snippet = Snippet::source(source.as_str())
                    .line_start(self.line as usize)
                    .path(self.file.as_str())
                    .annotation(AnnotationKind::Primary.span(start..end));
                explained(title.element(snippet))
            }
            _ => explained(title.element(annotate_snippets::Origin::path(self.file.as_str()))),
        }
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { code, file, line, column, text, source } = self;
        let Explanation { opa, effect, remedy } = code.explanation();
        let mut fields = serializer.serialize_struct("Problem", 10)?;
        fields.serialize_field("code", code)?;
        fields.serialize_field("severity", &code.severity())?;
        fields.serialize_field("file", file)?;
        fields.serialize_field("line", line)?;
        fields.serialize_field("column", column)?;
        fields.serialize_field("text", text)?;
        fields.serialize_field("source", source)?;
        fields.serialize_field("opa", opa)?;
        fields.serialize_field("effect", effect)?;
        fields.serialize_field("remedy", remedy)?;
        fields.end()
    }
}

/// A problem of the place that `span` begins at.
pub(super) fn problem_at(code: Code, span: &Span, text: impl Into<String>) -> Problem {
    Problem { line: span.line, column: span.col, ..Problem::of_file(code, span.source.get_path().clone(), text) }
}

impl From<Problem> for LoadError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, file, line, column, text, source: _ } = self;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_the_line_and_what_to_do() {
        let mut problem = Problem::of_file(Code::UnsafeVariable, "a.rego", "`x` is bound nowhere");
        assert!(problem.report(false).contains("a.rego"), "{}", problem.report(false));
        (problem.line, problem.column, problem.source) = (3, 10, Some("allow if xyz == \"ä\"".to_owned()));
        let report = problem.report(false);
        for part in [
            "error[unsafe_variable]: `x` is bound nowhere",
            "a.rego:3:10",
            "allow if xyz",
            "^^^",
            "OPA refuses it",
            "help: bind the variable",
        ] {
            assert!(report.contains(part), "{part} in {report}");
        }
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!((&json["severity"], &json["code"], &json["line"]), (&"error".into(), &"unsafe_variable".into(), &3.into()));
    }
}
