//! A pattern of Go's syntax in that of the `regex` crate, or why it is none. Both are alike but for classes, which are ASCII
//! in Go, and for what only one of them knows.

use std::{fmt::Write, iter::Peekable, str::Chars};

use crate::policy::builtins::Fault;

/// Most repetitions that Go takes.
const MAX_REPEAT: u32 = 1000;

pub(super) fn translate(pattern: &str) -> Result<String, Fault> {
    let mut translator = Translator { rest: pattern.chars().peekable(), out: String::with_capacity(pattern.len() + 16) };
    translator.pattern()?;
    Ok(translator.out)
}

struct Translator<'a> {
    rest: Peekable<Chars<'a>>,
    out: String,
}

impl Translator<'_> {
    fn pattern(&mut self) -> Result<(), Fault> {
        // Whether what stands before can be repeated, and was repeated already.
        let mut repeated = false;
        while let Some(letter) = self.rest.next() {
            let was_repeated = std::mem::take(&mut repeated);
            match letter {
                '\\' => self.escape(false)?,
                '[' => self.class()?,
                '(' => self.group()?,
                '*' | '+' | '?' => {
                    if was_repeated {
                        return Err("invalid nested repetition operator".into());
                    }
                    self.out.push(letter);
                    if self.rest.next_if_eq(&'?').is_some() {
                        self.out.push('?');
                    }
                    repeated = true;
                }
                '{' => match self.repetition()? {
                    Some(_) if was_repeated => return Err("invalid nested repetition operator".into()),
                    Some(text) => {
                        self.out.push_str(&text);
                        if self.rest.next_if_eq(&'?').is_some() {
                            self.out.push('?');
                        }
                        repeated = true;
                    }
                    // What is no repetition is a brace.
                    None => self.out.push_str(r"\{"),
                },
                '}' => self.out.push_str(r"\}"),
                ']' => self.out.push_str(r"\]"),
                other => self.out.push(other),
            }
        }
        Ok(())
    }

    /// `{n}`, `{n,}` or `{n,m}` behind an opening brace, or nothing taken.
    fn repetition(&mut self) -> Result<Option<String>, Fault> {
        let mut ahead = self.rest.clone();
        let mut text = "{".to_owned();
        loop {
            match ahead.next() {
                Some('}') => break,
                Some(letter) if letter.is_ascii_digit() || letter == ',' => text.push(letter),
                _ => return Ok(None),
            }
        }
        let inner = text.trim_start_matches('{').to_owned();
        let (least, most) = inner.split_once(',').unwrap_or((&inner, &inner));
        if least.is_empty() || most.contains(',') {
            return Ok(None);
        }
        let number = |text: &str| text.parse::<u32>().ok().filter(|count| *count <= MAX_REPEAT);
        let (Some(least), Some(most)) = (number(least), if most.is_empty() { Some(MAX_REPEAT) } else { number(most) }) else {
            return Err("invalid repeat count".into());
        };
        if least > most {
            return Err("invalid repeat count".into());
        }
        self.rest = ahead;
        text.push('}');
        Ok(Some(text))
    }

    fn group(&mut self) -> Result<(), Fault> {
        self.out.push('(');
        if self.rest.next_if_eq(&'?').is_none() {
            return Ok(());
        }
        self.out.push('?');
        if self.rest.next_if_eq(&'P').is_some() {
            self.out.push('P');
            return match self.rest.peek() {
                Some('<') => self.name(),
                _ => Err("invalid named capture".into()),
            };
        }
        if self.rest.peek() == Some(&'<') {
            return self.name();
        }
        // Flags, up to `:` or `)`.
        loop {
            match self.rest.next() {
                Some(flag @ ('i' | 'm' | 's' | 'U' | '-')) => self.out.push(flag),
                Some(end @ (':' | ')')) => {
                    self.out.push(end);
                    return Ok(());
                }
                _ => return Err("invalid or unsupported Perl syntax".into()),
            }
        }
    }

    /// `<name>`: letters, digits and underscores of ASCII in Go.
    fn name(&mut self) -> Result<(), Fault> {
        let mut length = 0;
        self.rest.next();
        self.out.push('<');
        loop {
            match self.rest.next() {
                Some('>') if length > 0 => {
                    self.out.push('>');
                    return Ok(());
                }
                // The crate wants a name to begin with a letter, Go does not: names are not used by the answers, their digits are.
                Some(letter) if letter.is_ascii_alphanumeric() || letter == '_' => {
                    if length == 0 && letter.is_ascii_digit() {
                        return Err("a name that begins with a digit is not supported".into());
                    }
                    self.out.push(letter);
                    length += 1;
                }
                _ => return Err("invalid named capture".into()),
            }
        }
    }

    /// What stands behind a backslash.
    fn escape(&mut self, in_class: bool) -> Result<(), Fault> {
        let letter = self.rest.next().ok_or("trailing backslash at end of expression")?;
        let plain = |text: &'static str| Ok::<_, Fault>(text);
        let class = match letter {
            'd' => plain("0-9")?,
            'w' => plain("0-9A-Za-z_")?,
            's' => plain(r"\t\n\x0c\r ")?,
            'D' => plain("^0-9")?,
            'W' => plain("^0-9A-Za-z_")?,
            'S' => plain(r"^\t\n\x0c\r ")?,
            _ => return self.other_escape(letter, in_class),
        };
        if in_class && !class.starts_with('^') {
            self.out.push_str(class);
        } else {
            let _ = write!(self.out, "[{class}]");
        }
        Ok(())
    }

    fn other_escape(&mut self, letter: char, in_class: bool) -> Result<(), Fault> {
        match letter {
            'b' if !in_class => self.out.push_str(r"(?-u:\b)"),
            'B' if !in_class => self.out.push_str(r"(?-u:\B)"),
            'A' | 'z' if !in_class => {
                self.out.push('\\');
                self.out.push(letter);
            }
            'Q' if !in_class => self.quoted(),
            // Go ends what was never begun without a word.
            'E' if !in_class => {}
            'a' => self.push(7),
            'f' => self.push(12),
            'n' => self.push(10),
            'r' => self.push(13),
            't' => self.push(9),
            'v' => self.push(11),
            'p' | 'P' => {
                self.out.push('\\');
                self.out.push(letter);
                self.property()?;
            }
            'x' => {
                let code = self.hexadecimal()?;
                self.push(code);
            }
            '0'..='7' => {
                let code = self.octal(letter)?;
                self.push(code);
            }
            punctuation if punctuation.is_ascii_punctuation() => self.push(u32::from(punctuation)),
            _ => return Err("invalid escape sequence".into()),
        }
        Ok(())
    }

    /// A character by its code.
    fn push(&mut self, code: u32) {
        let _ = write!(self.out, r"\x{{{code:x}}}");
    }

    /// `\Q…\E` takes everything as it is.
    fn quoted(&mut self) {
        while let Some(letter) = self.rest.next() {
            if letter == '\\' && self.rest.next_if_eq(&'E').is_some() {
                return;
            }
            self.push(u32::from(letter));
        }
    }

    fn property(&mut self) -> Result<(), Fault> {
        let first = self.rest.next().ok_or("invalid character class range")?;
        self.out.push(first);
        if first != '{' {
            return Ok(());
        }
        for letter in self.rest.by_ref() {
            self.out.push(letter);
            if letter == '}' {
                return Ok(());
            }
            // Only names, as in Go: no `Script=`.
            if !(letter.is_ascii_alphanumeric() || matches!(letter, '_' | '^')) {
                break;
            }
        }
        Err("invalid character class range".into())
    }

    fn hexadecimal(&mut self) -> Result<u32, Fault> {
        let wrong = || Fault::from("invalid escape sequence");
        let digits: String = if self.rest.next_if_eq(&'{').is_some() {
            let digits: String = std::iter::from_fn(|| self.rest.next_if(char::is_ascii_hexdigit)).take(8).collect();
            self.rest.next_if_eq(&'}').ok_or_else(wrong)?;
            digits
        } else {
            let digits: String = std::iter::from_fn(|| self.rest.next_if(char::is_ascii_hexdigit)).take(2).collect();
            if digits.len() < 2 {
                return Err(wrong());
            }
            digits
        };
        u32::from_str_radix(&digits, 16).ok().filter(|code| char::from_u32(*code).is_some()).ok_or_else(wrong)
    }

    /// `\0`, `\12`, `\123`: a digit other than 0 alone would be a backreference.
    fn octal(&mut self, first: char) -> Result<u32, Fault> {
        let mut code = first.to_digit(8).unwrap_or(0);
        let mut digits = 1;
        while digits < 3 {
            let Some(digit) = self.rest.next_if(|letter| matches!(letter, '0'..='7')).and_then(|letter| letter.to_digit(8))
            else {
                break;
            };
            code = code * 8 + digit;
            digits += 1;
        }
        if digits == 1 && first != '0' { Err("invalid escape sequence".into()) } else { Ok(code) }
    }

    /// A class in brackets, every character of it written by its code where the crate would read more into it.
    fn class(&mut self) -> Result<(), Fault> {
        self.out.push('[');
        if self.rest.next_if_eq(&'^').is_some() {
            self.out.push('^');
        }
        let mut first = true;
        loop {
            let letter = self.rest.next().ok_or("missing closing ]")?;
            match letter {
                ']' if !first => break,
                '[' if self.rest.peek() == Some(&':') => self.named_class()?,
                '\\' => self.escape(true)?,
                '-' => {
                    // At an end it is itself, between two characters a range.
                    let at_end = first || self.rest.peek() == Some(&']');
                    if at_end { self.push(u32::from('-')) } else { self.range()? }
                }
                other if other.is_alphanumeric() => self.out.push(other),
                other => self.push(u32::from(other)),
            }
            first = false;
        }
        self.out.push(']');
        Ok(())
    }

    /// The middle of a range, behind which only a character may stand: two of them are a difference to the crate.
    fn range(&mut self) -> Result<(), Fault> {
        let mut ahead = self.rest.clone();
        let next = ahead.next();
        let class = next == Some('\\') && ahead.next().is_some_and(|letter| "dDsSwWpP".contains(letter));
        if class || matches!(next, Some('-' | '[')) {
            return Err("invalid character class range".into());
        }
        self.out.push('-');
        Ok(())
    }

    /// `[:alpha:]`; a bracket that begins none is itself.
    fn named_class(&mut self) -> Result<(), Fault> {
        let ahead: String = self.rest.clone().take(12).collect();
        let Some((name, _)) = ahead.split_once(":]") else {
            self.push(u32::from('['));
            return Ok(());
        };
        let name = name.trim_start_matches(':');
        if !name.trim_start_matches('^').bytes().all(|byte| byte.is_ascii_lowercase()) {
            return Err("invalid character class range".into());
        }
        let _ = write!(self.out, "[:{name}:]");
        self.rest.nth(name.len() + 2);
        Ok(())
    }
}
