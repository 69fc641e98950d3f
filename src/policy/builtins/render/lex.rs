//! A template's text taken apart into tokens, as Go's `text/template/parse` does it, trim markers and comments gone.

use crate::policy::builtins::{Fault, bound, within};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Token<'t> {
    Text(&'t str),
    /// `{{` and `}}`.
    Open,
    Close,
    Space,
    /// A function, a keyword, `true`, `false` or `nil`.
    Word(&'t str),
    /// `.name`, without its dot.
    Field(&'t str),
    Dot,
    /// With its `$`.
    Variable(&'t str),
    Number(&'t str),
    /// What stands between single or double quotes, which may hold escapes.
    Letter(&'t str),
    Quoted(&'t str),
    Raw(&'t str),
    /// `:=` and `=`.
    Declare,
    Assign,
    Symbol(char),
}

const SPACES: [char; 4] = [' ', '\t', '\r', '\n'];

pub(super) fn tokens(template: &str) -> Result<Vec<Token<'_>>, Fault> {
    let mut lexer = Lexer { rest: template, tokens: Vec::new() };
    let mut trims = false;
    while let Some((text, rest)) = lexer.rest.split_once("{{") {
        let text = if trims { text.trim_start_matches(SPACES) } else { text };
        let marked = rest.strip_prefix('-').and_then(|rest| rest.strip_prefix(SPACES));
        lexer.text(if marked.is_some() { text.trim_end_matches(SPACES) } else { text });
        lexer.rest = marked.unwrap_or(rest);
        if let Some(comment) = lexer.rest.strip_prefix("/*") {
            let (_, rest) = comment.split_once("*/").ok_or("unclosed comment")?;
            lexer.rest = rest;
            trims = lexer.closes().ok_or("comment ends before closing delimiter")?;
            continue;
        }
        lexer.tokens.push(Token::Open);
        trims = lexer.action()?;
        lexer.tokens.push(Token::Close);
        within(lexer.tokens.len() <= bound::MAX_PARTS, "the template has too many parts")?;
    }
    lexer.text(if trims { lexer.rest.trim_start_matches(SPACES) } else { lexer.rest });
    Ok(lexer.tokens)
}

struct Lexer<'t> {
    rest: &'t str,
    tokens: Vec<Token<'t>>,
}

impl<'t> Lexer<'t> {
    fn text(&mut self, text: &'t str) {
        if !text.is_empty() {
            self.tokens.push(Token::Text(text));
        }
    }

    /// Takes what closes an action, if it is next; the answer is whether it trims the text behind it.
    fn closes(&mut self) -> Option<bool> {
        let marked = self.rest.strip_prefix(SPACES).and_then(|rest| rest.strip_prefix("-}}"));
        let rest = marked.or_else(|| self.rest.strip_prefix("}}"))?;
        self.rest = rest;
        Some(marked.is_some())
    }

    fn take(&mut self, length: usize) -> &'t str {
        let (taken, rest) = self.rest.split_at_checked(length).unwrap_or((self.rest, ""));
        self.rest = rest;
        taken
    }

    /// The tokens up to what closes the action.
    fn action(&mut self) -> Result<bool, Fault> {
        loop {
            if let Some(trims) = self.closes() {
                return Ok(trims);
            }
            within(self.tokens.len() <= bound::MAX_PARTS, "the template has too many parts")?;
            let token = self.token()?;
            self.tokens.push(token);
        }
    }

    fn token(&mut self) -> Result<Token<'t>, Fault> {
        let mut letters = self.rest.chars();
        let first = letters.next().ok_or("unclosed action")?;
        let second = letters.next();
        Ok(match first {
            letter if SPACES.contains(&letter) => {
                self.take(1);
                Token::Space
            }
            ':' if second == Some('=') => {
                self.take(2);
                Token::Declare
            }
            ':' => return Err("expected :=".into()),
            '=' => {
                self.take(1);
                Token::Assign
            }
            '|' | '(' | ')' | ',' => {
                self.take(1);
                Token::Symbol(first)
            }
            '"' => Token::Quoted(self.quoted('"')?),
            '\'' => Token::Letter(self.quoted('\'')?),
            '`' => {
                let (raw, rest) =
                    self.rest.get(1..).unwrap_or_default().split_once('`').ok_or("unterminated raw quoted string")?;
                self.rest = rest;
                Token::Raw(raw)
            }
            '$' => {
                let name = self.name(1)?;
                Token::Variable(name)
            }
            '.' if !second.is_some_and(|letter| letter.is_ascii_digit()) => match self.name(1)? {
                "." => Token::Dot,
                name => Token::Field(name.get(1..).unwrap_or_default()),
            },
            '.' | '+' | '-' | '0'..='9' => Token::Number(self.number()?),
            letter if is_alphanumeric(letter) => Token::Word(self.name(0)?),
            _ => return Err("unexpected character in an action".into()),
        })
    }

    /// So many letters, and the letters and digits behind them, which must end as a name may.
    fn name(&mut self, from: usize) -> Result<&'t str, Fault> {
        let tail = self.rest.get(from..).unwrap_or_default();
        let length = tail.find(|letter| !is_alphanumeric(letter)).unwrap_or(tail.len());
        let name = self.take(from + length);
        let ends = self.rest.chars().next().is_none_or(|next| SPACES.contains(&next) || ".,|:()}".contains(next));
        if ends { Ok(name) } else { Err("bad character".into()) }
    }

    fn quoted(&mut self, quote: char) -> Result<&'t str, Fault> {
        let inner = self.rest.get(1..).unwrap_or_default();
        let mut escaped = false;
        for (at, letter) in inner.char_indices() {
            match letter {
                '\n' => break,
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                _ if letter == quote => {
                    self.rest = inner.get(at + 1..).unwrap_or_default();
                    return Ok(inner.get(..at).unwrap_or_default());
                }
                _ => {}
            }
        }
        Err("unterminated quoted string".into())
    }

    /// A number as far as its letters may be one; whether they are is told when it is read.
    fn number(&mut self) -> Result<&'t str, Fault> {
        let unsigned = self.rest.trim_start_matches(['+', '-']);
        let is_prefixed = ["0x", "0X", "0b", "0B", "0o", "0O"].iter().any(|prefix| unsigned.starts_with(prefix));
        let mut before = ' ';
        let end = self.rest.char_indices().find(|&(at, letter)| {
            let is_sign = matches!(letter, '+' | '-') && (at == 0 || (!is_prefixed && matches!(before, 'e' | 'E')));
            before = letter;
            !(is_sign || letter == '.' || is_alphanumeric(letter))
        });
        let number = self.take(end.map_or(self.rest.len(), |(at, _)| at));
        if self.rest.starts_with(['+', '-']) {
            return Err(Fault::limit("complex numbers are not supported"));
        }
        Ok(number)
    }
}

fn is_alphanumeric(letter: char) -> bool {
    letter == '_' || letter.is_alphanumeric()
}
