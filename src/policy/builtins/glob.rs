//! `glob.*`, by the rules of the library that OPA uses (gobwas/glob 1.0): `*` and `?` stop at delimiters, `**` does not;
//! `[abc]`, `[!abc]`, `[a-c]`; `{a,b}`; a backslash takes the next character as it is. A glob becomes a regular expression,
//! which is linear in the text whatever the stars.

use std::fmt::Write;

use regex::RegexBuilder;
use regorus::Value;

use super::{
    Builtin, Fault,
    cache::{Cache, cached},
    operand,
    regex::Pattern,
    text_operand,
};

pub(super) const GLOB: &[Builtin] =
    &[Builtin { name: "glob.match", arity: 3, run: glob_match }, Builtin { name: "glob.quote_meta", arity: 1, run: quote_meta }];

/// Deepest nesting of alternatives.
const MAX_NESTING: usize = 50;
/// Longest pattern in bytes.
const MAX_PATTERN: usize = 16 << 10;

thread_local! {
    /// By delimiters, a NUL, and the pattern.
    static GLOBS: Cache<Box<str>, Pattern> = Cache::default();
}

fn glob_match(args: &[Value]) -> Result<Value, Fault> {
    let (pattern, text) = (text_operand(args, 0)?, text_operand(args, 2)?);
    let mut delimiters = String::new();
    match args.get(1) {
        Some(Value::Null) => {}
        Some(Value::Array(items)) => {
            for item in items.iter() {
                let Value::String(item) = item else { return Err("operand 2 must be array of strings".into()) };
                let mut letters = item.chars();
                match (letters.next(), letters.next()) {
                    (Some(letter), None) => delimiters.push(letter),
                    _ => return Err("operand 2 must be array of single-character strings".into()),
                }
            }
            if delimiters.is_empty() {
                delimiters.push('.');
            }
        }
        _ => return Err(operand(2, "array, null")),
    }
    let key = format!("{delimiters}\0{pattern}");
    let glob = cached(&GLOBS, key.as_str(), || compile(pattern, &delimiters))?;
    Ok(Value::Bool(glob.on(text)?.is_match(text)))
}

fn quote_meta(args: &[Value]) -> Result<Value, Fault> {
    let text = text_operand(args, 0)?;
    let mut quoted = String::with_capacity(text.len());
    for letter in text.chars() {
        if "?*\\[]{}".contains(letter) {
            quoted.push('\\');
        }
        quoted.push(letter);
    }
    Ok(Value::from(quoted))
}

/// Whether a glob stands for a name whose parts dots are between. One that cannot be read stands for nothing.
pub(in crate::policy) fn names(pattern: &str, name: &str) -> bool {
    let glob = cached(&GLOBS, &*format!(".\0{pattern}"), || compile(pattern, "."));
    glob.is_ok_and(|glob| glob.on(name).is_ok_and(|regex| regex.is_match(name)))
}

fn compile(pattern: &str, delimiters: &str) -> Result<Pattern, Fault> {
    if pattern.len() > MAX_PATTERN {
        return Err(Fault::limit("the pattern is too long"));
    }
    let mut translator = Translator { rest: pattern.chars().peekable(), delimiters, out: r"(?s)\A".to_owned(), depth: 0 };
    translator.sequence()?;
    translator.out.push_str(r"\z");
    let made = Pattern::build(&mut RegexBuilder::new(&translator.out));
    made.map_err(|_| Fault::limit("the pattern is too large"))
}

struct Translator<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    delimiters: &'a str,
    out: String,
    /// How many `{` are open.
    depth: usize,
}

impl Translator<'_> {
    /// Translates up to the end, or to the `,` or `}` of the group around.
    fn sequence(&mut self) -> Result<(), Fault> {
        while let Some(letter) = self.rest.peek().copied() {
            if self.depth > 0 && matches!(letter, ',' | '}') {
                return Ok(());
            }
            self.rest.next();
            match letter {
                '*' => {
                    let super_star = self.rest.next_if_eq(&'*').is_some();
                    while self.rest.next_if_eq(&'*').is_some() {}
                    if super_star { self.out.push_str(".*") } else { self.but_delimiters("*") }
                }
                '?' => self.but_delimiters(""),
                '[' => self.class()?,
                '{' => self.group()?,
                '}' => return Err("unmatched }".into()),
                '\\' => {
                    let next = self.rest.next().ok_or("trailing backslash")?;
                    self.literal(next);
                }
                other => self.literal(other),
            }
        }
        Ok(())
    }

    fn literal(&mut self, letter: char) {
        let mut bytes = [0; 4];
        self.out.push_str(&regex::escape(letter.encode_utf8(&mut bytes)));
    }

    fn but_delimiters(&mut self, repeat: &str) {
        if self.delimiters.is_empty() {
            self.out.push('.');
        } else {
            self.out.push_str("[^");
            self.delimiters.chars().for_each(|letter| hex(letter, &mut self.out));
            self.out.push(']');
        }
        self.out.push_str(repeat);
    }

    fn group(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return Err(Fault::limit("alternatives nest too deep"));
        }
        self.out.push_str("(?:");
        loop {
            self.sequence()?;
            match self.rest.next() {
                Some(',') => self.out.push('|'),
                Some('}') => break,
                _ => return Err("unclosed {".into()),
            }
        }
        self.out.push(')');
        self.depth -= 1;
        Ok(())
    }

    /// A range `lo-hi`, or a list of characters. A dash behind the first character makes a range, whatever follows.
    fn class(&mut self) -> Result<(), Fault> {
        let negated = self.rest.next_if_eq(&'!').is_some();
        self.out.push_str(if negated { "[^" } else { "[" });
        let mut ahead = self.rest.clone();
        if let (Some(from), Some('-')) = (ahead.next(), ahead.next()) {
            self.rest = ahead;
            let to = self.rest.next().ok_or("unclosed [")?;
            if self.rest.next() != Some(']') {
                return Err("a range is not closed".into());
            }
            if from > to {
                return Err("range is out of order".into());
            }
            hex(from, &mut self.out);
            self.out.push('-');
            hex(to, &mut self.out);
        } else {
            let mut is_empty = true;
            loop {
                match self.rest.next() {
                    Some(']') => break,
                    Some('\\') => hex(self.rest.next().ok_or("trailing backslash")?, &mut self.out),
                    Some(other) => hex(other, &mut self.out),
                    None => return Err("unclosed [".into()),
                }
                is_empty = false;
            }
            if is_empty {
                return Err("empty class".into());
            }
        }
        self.out.push(']');
        Ok(())
    }
}

fn hex(letter: char, out: &mut String) {
    let _ = write!(out, r"\x{{{:x}}}", u32::from(letter));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_in_opa() {
        for (pattern, delimiters, text, expected) in [
            ("*.github.com", ".", "api.github.com", Some(true)),
            ("*.github.com", ".", "a.b.github.com", Some(false)),
            ("**.github.com", ".", "a.b.github.com", Some(true)),
            ("*", ":", "a:b", Some(false)),
            ("/a/**/c", "/", "/a/c", Some(false)),
            ("/a/**/c", "/", "/a/b/d/c", Some(true)),
            ("**.js", "/", "a/b.js", Some(true)),
            ("/a**", "/", "/a/b", Some(true)),
            ("?", "", "é", Some(true)),
            ("[^x]", "", "^", Some(true)),
            ("[!x]", "", "x", Some(false)),
            ("[a-c]at", "", "bat", Some(true)),
            ("{cat,b?t,}", "", "", Some(true)),
            ("{cat,{b,c}at}", "", "bat", Some(true)),
            (r"\*a\{", "", "*a{", Some(true)),
            ("a\0b", "", "a\0b", Some(true)),
            ("a,b", "", "a,b", Some(true)),
            ("a", "", "a\n", Some(false)),
            ("*", "", "a\nb", Some(true)),
            ("[a", "", "a", None),
            ("{a", "", "a", None),
            ("a\\", "", "a", None),
            ("[]", "", "", None),
            ("[a-]", "", "a", None),
            ("[ab-]", "", "-", Some(true)),
            ("[-a]", "", "-", Some(true)),
            ("[!a-c]", "", "d", Some(true)),
            ("[a-cd]", "", "b", None),
            ("[c-a]", "", "b", None),
        ] {
            let found = compile(pattern, delimiters).ok().map(|glob| glob.on(text).unwrap().is_match(text));
            assert_eq!(found, expected, "{pattern} over {text:?}");
        }
    }

    #[test]
    fn what_is_special_only_within_something_special_is_not_quoted() {
        let quoted = quote_meta(&[Value::from("a-b!c,d*?[x]{y}\\")]).unwrap();
        assert_eq!(quoted, Value::from("a-b!c,d\\*\\?\\[x\\]\\{y\\}\\\\"));
    }

    #[test]
    fn what_would_be_huge_or_deep_is_refused() {
        assert!(compile(&"{a,".repeat(200), "").is_err());
        assert!(compile(&"{[!a]*,[!b]*}".repeat(20_000), "é").is_err());
    }
}
