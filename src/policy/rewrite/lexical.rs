//! Syntax that the engine's parser has not: template strings become calls of `internal.template_string`, on the text,
//! before anything is parsed. Every line stays where it is; columns are led back by [`Lowered::original`].

use std::fmt::Write;

/// How deep template strings may stand inside each other.
const MAX_NESTING: usize = 16;

/// Begins the names of the variables that hold a template's values, which `check` knows them by.
pub(in crate::policy) const TEMPLATE_VARIABLE: &str = "__template";

/// Text that the engine's parser reads, and where its parts stood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::policy) struct Lowered {
    pub(in crate::policy) text: String,
    moves: Vec<Move>,
}

/// `new_start..new_end` of the lowered text stands for `old_start..old_end` of the author's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Move {
    new_start: usize,
    new_end: usize,
    old_start: usize,
    old_end: usize,
}

/// A template string that cannot be read: its place in bytes, and what is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::policy) struct Unreadable {
    pub(in crate::policy) at: usize,
    pub(in crate::policy) text: &'static str,
}

impl Lowered {
    /// The author's line and column of a place in the lowered text, both from 1.
    pub(in crate::policy) fn original(&self, source: &str, line: u32, column: u32) -> (u32, u32) {
        if self.moves.is_empty() || line == 0 || column == 0 {
            return (line, column);
        }
        let at = offset(&self.text, line, column);
        let Some(last) = self.moves.iter().rev().find(|piece| piece.new_start <= at) else { return (line, column) };
        let old = if at < last.new_end { last.old_start } else { last.old_end + (at - last.new_end) };
        place(source, old)
    }
}

/// Line and column of a byte, from 1.
pub(in crate::policy) fn place(text: &str, at: usize) -> (u32, u32) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1;
    (u32::try_from(line).unwrap_or(0), u32::try_from(column).unwrap_or(0))
}

fn offset(text: &str, line: u32, column: u32) -> usize {
    let lines: usize = text.split_inclusive('\n').take(line.saturating_sub(1) as usize).map(str::len).sum();
    let rest = text.get(lines..).unwrap_or_default();
    lines + rest.chars().take(column.saturating_sub(1) as usize).map(char::len_utf8).sum::<usize>()
}

/// OPA's template strings, `$"a {e}"`: each expression becomes the set of its values, and an empty set is an expression
/// that is undefined, as in OPA's own compiler.
pub(in crate::policy) fn lower(source: &str) -> Result<Lowered, Unreadable> {
    if !source.contains("$\"") && !source.contains("$`") {
        return Ok(Lowered { text: source.to_owned(), moves: Vec::new() });
    }
    let mut reader = Reader { source, at: 0 };
    let mut lowered = Lowered { text: String::with_capacity(source.len() * 2), moves: Vec::new() };
    while let Some(piece) = reader.piece() {
        match piece {
            Piece::Plain(text) => lowered.text.push_str(text),
            Piece::Template => {
                let (old_start, new_start) = (reader.at, lowered.text.len());
                let call = reader.template(0)?;
                lowered.text.push_str(&call);
                lowered.moves.push(Move { new_start, new_end: lowered.text.len(), old_start, old_end: reader.at });
            }
        }
    }
    Ok(lowered)
}

enum Piece<'s> {
    /// Text that stays: one character, or a whole string or comment.
    Plain(&'s str),
    /// The reader stands before a template string.
    Template,
}

struct Reader<'s> {
    source: &'s str,
    at: usize,
}

impl<'s> Reader<'s> {
    fn rest(&self) -> &'s str {
        self.source.get(self.at..).unwrap_or_default()
    }

    /// Takes so many bytes; nothing when they end inside a character.
    fn take(&mut self, length: usize) -> &'s str {
        let text = self.rest().get(..length).unwrap_or_default();
        self.at += text.len();
        text
    }

    fn piece(&mut self) -> Option<Piece<'s>> {
        let rest = self.rest();
        let first = rest.chars().next()?;
        let length = match first {
            '$' if rest.starts_with("$\"") || rest.starts_with("$`") => return Some(Piece::Template),
            '"' => quoted(rest),
            '`' => rest.get(1..).and_then(|inner| inner.find('`')).map_or(rest.len(), |end| end + 2),
            '#' => rest.find('\n').unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        Some(Piece::Plain(self.take(length)))
    }

    /// The call that stands for the template string here.
    fn template(&mut self, nesting: usize) -> Result<String, Unreadable> {
        let start = self.at;
        let wrong = |text| Err(Unreadable { at: start, text });
        if nesting >= MAX_NESTING {
            return wrong("template strings nest too deep; build the inner ones in rules of their own");
        }
        let raw = self.take(2).ends_with('`');
        let (mut parts, mut literal) = (String::new(), Literal::new(raw));
        loop {
            let rest = self.rest();
            let Some(next) = rest.chars().next() else { return wrong("the template string does not end") };
            match next {
                '`' if raw => break,
                '"' if !raw => break,
                '\\' if rest.starts_with("\\{") => {
                    self.take(2);
                    literal.text.push('{');
                }
                '\\' if !raw => {
                    let length = 1 + rest.chars().nth(1).map_or(0, char::len_utf8);
                    literal.text.push_str(self.take(length));
                }
                '{' => {
                    self.take(1);
                    literal.flush(&mut parts);
                    let expression = self.expression(nesting)?;
                    if expression.trim().is_empty() {
                        return wrong("an expression of the template string is empty; write one between its braces");
                    }
                    let name = format!("{TEMPLATE_VARIABLE}{nesting}");
                    let _ = write!(parts, "{{{name} | {name} := {expression}}}, ");
                }
                _ => literal.text.push_str(self.take(next.len_utf8())),
            }
        }
        self.take(1);
        literal.flush(&mut parts);
        Ok(format!("internal.template_string([{}])", parts.trim_end_matches([',', ' '])))
    }

    /// What stands between the braces, up to the one that closes them.
    fn expression(&mut self, nesting: usize) -> Result<String, Unreadable> {
        let start = self.at;
        let (mut text, mut depth) = (String::new(), 0_usize);
        loop {
            match self.piece() {
                None => return Err(Unreadable { at: start, text: "an expression of the template string does not end" }),
                Some(Piece::Template) => text.push_str(&self.template(nesting + 1)?),
                Some(Piece::Plain("}")) if depth == 0 => return Ok(text),
                Some(Piece::Plain(plain)) => {
                    match plain {
                        "{" => depth += 1,
                        "}" => depth -= 1,
                        _ => {}
                    }
                    text.push_str(plain);
                }
            }
        }
    }
}

/// Text between the expressions of a template.
struct Literal {
    raw: bool,
    text: String,
}

impl Literal {
    fn new(raw: bool) -> Self {
        Self { raw, text: String::new() }
    }

    /// Adds the text to the parts as a string, with the line breaks that a raw template has in it behind it.
    fn flush(&mut self, parts: &mut String) {
        if self.text.is_empty() {
            return;
        }
        let text = std::mem::take(&mut self.text);
        let quoted = if self.raw { serde_json::Value::from(text.as_str()).to_string() } else { format!("\"{text}\"") };
        let _ = write!(parts, "{quoted}, {}", if self.raw { "\n".repeat(text.matches('\n').count()) } else { String::new() });
    }
}

/// Length of the quoted string that the text begins with.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, next) in text.char_indices().skip(1) {
        match next {
            // A string that does not end is the parser's to refuse.
            '\n' => return at,
            '"' if !escaped => return at + 1,
            _ => escaped = next == '\\' && !escaped,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_strings_become_calls() {
        for (source, lowered) in [
            (r#"p := "$\"x""#, r#"p := "$\"x""#),
            (r#"p := $"""#, r#"p := internal.template_string([])"#),
            (r#"p := $"a {x} b""#, r#"p := internal.template_string(["a ", {__template0 | __template0 := x}, " b"])"#),
            (r#"p := $"\{ä\"}{1}""#, r#"p := internal.template_string(["{ä\"}", {__template0 | __template0 := 1}])"#),
            ("p := $`\\{\\n{1}`", r#"p := internal.template_string(["{\\n", {__template0 | __template0 := 1}])"#),
            (r#"p := $"{{1: "}"}}""#, r#"p := internal.template_string([{__template0 | __template0 := {1: "}"}}])"#),
            (
                r#"p := $"{$"{x}"}""#,
                "p := internal.template_string([{__template0 | __template0 := internal.template_string([{__template1 | __template1 := x}])}])",
            ),
            ("# $\"{\np := `$\"{`", "# $\"{\np := `$\"{`"),
        ] {
            assert_eq!(lower(source).map(|lowered| lowered.text).as_deref(), Ok(lowered), "{source}");
        }
    }

    #[test]
    fn lines_stay_and_columns_are_led_back() {
        let source = "p := $`a\nb{x}\n` + yy\nq := 1";
        let lowered = lower(source).unwrap();
        assert_eq!(lowered.text.matches('\n').count(), 3, "{}", lowered.text);
        let (line, column) = place(&lowered.text, lowered.text.find("yy").unwrap());
        assert_eq!((line, lowered.original(source, line, column)), (3, (3, 5)));
        assert_eq!(lowered.original(source, 1, 1), (1, 1));
        assert_eq!(lowered.original(source, 4, 3), (4, 3));
    }

    #[test]
    fn what_is_no_template_string_is_refused() {
        let deep = "$\"{".repeat(40) + "1" + &"}\"".repeat(40);
        for source in ["p := $\"a", "p := $\"{1", "p := $\"{}\"", "p := $\"{ }\"", "p := $`", deep.as_str()] {
            assert!(lower(source).is_err(), "{source}");
        }
    }
}
