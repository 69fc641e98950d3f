//! `regex.*` by the rules of Go's RE2, which OPA uses: `\d`, `\w`, `\s` and `\b` are ASCII, and what only the `regex` crate
//! knows is refused. Patterns are compiled once a thread.

mod intersect;
mod syntax;

use std::rc::Rc;

use regex::{Regex, RegexBuilder};
use regorus::Value;

use super::{
    Builtin, Fault, MAX_TEXT, bound,
    cache::{Cache, cached},
    integer_operand, text_operand, within,
};

pub(super) const REGEX: &[Builtin] = &[
    Builtin { name: "regex.match", arity: 2, run: is_match },
    Builtin { name: "re_match", arity: 2, run: is_match },
    Builtin { name: "regex.is_valid", arity: 1, run: is_valid },
    Builtin { name: "regex.split", arity: 2, run: split },
    Builtin { name: "regex.find_n", arity: 3, run: find },
    Builtin { name: "regex.find_all_string_submatch_n", arity: 3, run: submatches },
    Builtin { name: "regex.replace", arity: 3, run: replace },
    Builtin { name: "regex.template_match", arity: 4, run: template_match },
    Builtin { name: "regex.globs_match", arity: 2, run: globs_match },
];

/// Largest compiled pattern in bytes.
const MAX_COMPILED: usize = 1 << 20;
/// Longest pattern in bytes.
const MAX_PATTERN: usize = 16 << 10;
/// Deepest nesting of groups.
const MAX_NESTING: u32 = 200;
/// Sizes that a compiled pattern may have in bytes. How long a match may take depends on it and on the text.
const SIZES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, MAX_COMPILED];
/// Most bytes of a pattern times bytes of a text: where all else fails, a match looks at most of both.
const MAX_EFFORT: usize = 1 << 32;

/// A compiled pattern.
pub(super) struct Pattern {
    regex: Regex,
    size: usize,
}

impl Pattern {
    pub(super) fn build(builder: &mut RegexBuilder) -> Result<Self, regex::Error> {
        let mut made = Err(regex::Error::CompiledTooBig(0));
        for size in SIZES {
            made = builder.size_limit(size).build().map(|regex| Self { regex, size });
            if !matches!(made, Err(regex::Error::CompiledTooBig(_))) {
                break;
            }
        }
        made
    }

    /// What matches the text, unless that could take too long.
    pub(super) fn on(&self, text: &str) -> Result<&Regex, Fault> {
        within(self.size.saturating_mul(text.len()) <= MAX_EFFORT, "the text is too long for this pattern")?;
        Ok(&self.regex)
    }
}

thread_local! {
    static REGEXES: Cache<Box<str>, Pattern> = Cache::default();
}

fn compiled(pattern: &str) -> Result<Rc<Pattern>, Fault> {
    cached(&REGEXES, pattern, || compile(pattern))
}

fn compile(pattern: &str) -> Result<Pattern, Fault> {
    if pattern.len() > MAX_PATTERN {
        return Err(Fault::limit("the pattern is too long"));
    }
    let translated = syntax::translate(pattern)?;
    let made = Pattern::build(RegexBuilder::new(&translated).nest_limit(MAX_NESTING));
    made.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => Fault::limit("the pattern is too large"),
        error => Fault(format!("error parsing regexp: {error}")),
    })
}

fn is_match(args: &[Value]) -> Result<Value, Fault> {
    let (pattern, text) = (text_operand(args, 0)?, text_operand(args, 1)?);
    Ok(Value::Bool(compiled(pattern)?.on(text)?.is_match(text)))
}

fn is_valid(args: &[Value]) -> Result<Value, Fault> {
    Ok(Value::Bool(text_operand(args, 0).and_then(compiled).is_ok()))
}

/// As Go's `Regexp.Split` without a limit.
fn split(args: &[Value]) -> Result<Value, Fault> {
    let (pattern, text) = (text_operand(args, 0)?, text_operand(args, 1)?);
    let compiled = compiled(pattern)?;
    let regex = compiled.on(text)?;
    if !pattern.is_empty() && text.is_empty() {
        return strings([""]);
    }
    let (mut parts, mut from, mut end) = (Vec::new(), 0, 0);
    for found in regex.find_iter(text) {
        end = found.start();
        if found.end() != 0 {
            parts.push(text.get(from..end).unwrap_or_default());
        }
        from = found.end();
    }
    if end != text.len() {
        parts.push(text.get(from..).unwrap_or_default());
    }
    strings(parts)
}

fn find(args: &[Value]) -> Result<Value, Fault> {
    let (pattern, text, most) = (text_operand(args, 0)?, text_operand(args, 1)?, most(args)?);
    strings(compiled(pattern)?.on(text)?.find_iter(text).take(most).map(|found| found.as_str()))
}

fn submatches(args: &[Value]) -> Result<Value, Fault> {
    let (pattern, text, most) = (text_operand(args, 0)?, text_operand(args, 1)?, most(args)?);
    let compiled = compiled(pattern)?;
    let regex = compiled.on(text)?;
    let mut size = 0_usize;
    let mut all = Vec::new();
    for groups in regex.captures_iter(text).take(most) {
        size += groups.iter().map(|group| 8 + group.map_or(0, |group| group.len())).sum::<usize>();
        if size > MAX_TEXT {
            return Err(Fault::limit("the answer is too large"));
        }
        all.push(strings(groups.iter().map(|group| group.map_or("", |group| group.as_str())))?);
    }
    Ok(Value::from(all))
}

/// How many matches are asked for; all when negative.
fn most(args: &[Value]) -> Result<usize, Fault> {
    Ok(usize::try_from(integer_operand(args, 2)?).unwrap_or(usize::MAX))
}

fn replace(args: &[Value]) -> Result<Value, Fault> {
    let (text, pattern, template) = (text_operand(args, 0)?, text_operand(args, 1)?, text_operand(args, 2)?);
    let compiled = compiled(pattern)?;
    let regex = compiled.on(text)?;
    let (mut out, mut from) = (String::with_capacity(text.len()), 0);
    for groups in regex.captures_iter(text) {
        let Some(whole) = groups.get(0) else { continue };
        out.push_str(text.get(from..whole.start()).unwrap_or_default());
        groups.expand(template, &mut out);
        from = whole.end();
        if out.len() > MAX_TEXT {
            return Err(Fault::limit("the answer is too large"));
        }
    }
    out.push_str(text.get(from..).unwrap_or_default());
    Ok(Value::from(out))
}

/// A text with regular expressions between delimiters, such as `urn:{.*}:x`.
fn template_match(args: &[Value]) -> Result<Value, Fault> {
    let (template, text) = (text_operand(args, 0)?, text_operand(args, 1)?);
    let (open, close) = (delimiter(args, 2)?, delimiter(args, 3)?);
    let (mut pattern, mut rest) = ("^".to_owned(), template);
    while let Some((plain, after)) = rest.split_once(open) {
        // The expression ends at the delimiter that closes the first one, others between counted.
        let mut depth = 1_u32;
        let end = after.char_indices().find(|(_, letter)| {
            match *letter {
                letter if letter == close => depth -= 1,
                letter if letter == open => depth += 1,
                _ => {}
            }
            depth == 0
        });
        let Some((end, _)) = end else { return Err(Fault(format!("unbalanced braces in {template:?}"))) };
        let (inner, behind) = after.split_at_checked(end).unwrap_or((after, ""));
        pattern.push_str(&regex::escape(plain));
        // Each expression has to be one by itself: `a)|(b` is none.
        compiled(&format!("^{inner}$"))?;
        pattern.push('(');
        pattern.push_str(inner);
        pattern.push(')');
        rest = behind.strip_prefix(close).unwrap_or(behind);
    }
    if rest.contains(close) {
        return Err(Fault(format!("unbalanced braces in {template:?}")));
    }
    pattern.push_str(&regex::escape(rest));
    pattern.push('$');
    Ok(Value::Bool(compiled(&pattern)?.on(text)?.is_match(text)))
}

fn delimiter(args: &[Value], index: usize) -> Result<char, Fault> {
    let text = text_operand(args, index)?;
    match text.as_bytes() {
        [byte] => Ok(char::from(*byte)),
        other => Err(Fault(format!("delimiter has to be exactly one character long but is {} long", other.len()))),
    }
}

fn globs_match(args: &[Value]) -> Result<Value, Fault> {
    intersect::intersect(text_operand(args, 0)?, text_operand(args, 1)?).map(Value::Bool)
}

fn strings<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Value, Fault> {
    let mut all = Vec::new();
    for text in texts {
        within(all.len() < bound::MAX_PARTS, "the text has too many parts")?;
        all.push(Value::from(text));
    }
    Ok(Value::from(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_ascii_and_go_syntax_is_taken() {
        for (pattern, text, expected) in [
            (r"^\d$", "٣", Some(false)),
            (r"^\w$", "é", Some(false)),
            (r"^\s$", "\u{a0}", Some(false)),
            (r"^\S$", "é", Some(true)),
            (r"^[\d_]$", "_", Some(true)),
            (r"^[^\d]$", "٣", Some(true)),
            (r"^[\D]$", "1", Some(false)),
            (r"a\b", "aé", Some(true)),
            (r"^\Qa.b\E$", "a.b", Some(true)),
            (r"^\Qa.b", "axb", Some(false)),
            (r"^[[]$", "[", Some(true)),
            (r"^[a&&b]$", "&", Some(true)),
            (r"(?i)^straße$", "STRAßE", Some(true)),
            (r"^a$", "a\n", Some(false)),
            (r"(?P<x>a)", "a", Some(true)),
            (r"^\x{e9}$", "é", Some(true)),
            (r"^\101$", "A", Some(true)),
            (r"^\pL$", "é", Some(true)),
            (r"^[[:word:]]$", "é", Some(false)),
            (r"^a{,2}$", "a{,2}", Some(true)),
            (r"a**", "a", None),
            (r"a{1001}", "a", None),
            (r"(?x)a", "a", None),
            (r"\u0041", "A", None),
            (r"(?=a)", "a", None),
            (r"(", "a", None),
            (r"[b-a]", "a", None),
            (r"\8", "8", None),
            ("[a--b]", "a", None),
            (r"[!-\d]", "5", None),
        ] {
            let found = compile(pattern).ok().map(|regex| regex.on(text).unwrap().is_match(text));
            assert_eq!(found, expected, "{pattern} over {text:?}");
        }
    }

    #[test]
    fn each_part_of_a_template_is_an_expression() {
        let call = |template: &str, text: &str| {
            template_match(&[Value::from(template), Value::from(text), Value::from("{"), Value::from("}")]).ok()
        };
        assert_eq!(call("urn:{.*}:x", "urn:a:x"), Some(Value::Bool(true)));
        assert_eq!(call("{a)|(b}", "b"), None);
    }

    #[test]
    fn bombs_are_refused() {
        assert!(compile(&"(".repeat(10_000)).is_err());
        assert!(compile("((a{1,1000}){1,1000}){1,1000}").is_err());
        let text = Value::from("a".repeat(100_000));
        let template = Value::from("$0".repeat(10_000));
        assert!(replace(&[text, Value::from("a"), template]).is_err());
    }
}
