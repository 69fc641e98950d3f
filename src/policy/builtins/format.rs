//! `sprintf`, which is Go's `fmt.Sprintf` over what OPA hands it: integers, fractions and texts, everything else as a text.
//! It never fails: what does not fit stands in the text (`%!d(string=a)`, `%!s(MISSING)`), so that a rule whose message has
//! a mistake in it still holds.

mod number;

use num_bigint::BigInt;
use regorus::Value;

use super::{Builtin, Fault, MAX_TEXT, operand, term, text_operand, within};

pub(super) const FORMAT: &[Builtin] = &[Builtin { name: "sprintf", arity: 2, run: sprintf }];

/// The type of what is nothing.
pub(super) const NO_TYPE: &str = "<nil>";
/// Widths and precisions beyond this are none to Go.
const MAX_WIDTH: usize = 10_000_009;
/// Those that an argument says.
const MAX_GIVEN_WIDTH: u64 = 1_000_000;

/// What stands for a verb.
pub(super) enum Argument {
    /// Of 64 bits to Go, with the name of its type.
    Integer(BigInt, &'static str),
    /// Larger: another type to Go, with verbs of its own.
    Large(BigInt),
    Fraction(f64),
    /// With the name of its type.
    Text(String, &'static str),
    /// What only a verb without flags can show, as it does, with the name of its type.
    Shown(String, &'static str),
}

impl Argument {
    fn of(value: &Value) -> Result<Self, Fault> {
        let Value::Number(number) = value else {
            let text = match value {
                Value::String(text) => text.to_string(),
                other => {
                    let mut text = String::new();
                    term::print(other, &mut text)?;
                    text
                }
            };
            return Ok(Self::Text(text, "string"));
        };
        // Only a fraction is printed with as many places as asked for. It may be whole: `1.0` is none of Go's integers.
        if number.format_decimal_with_width(1).contains('.') {
            return number.as_f64().map(Self::Fraction).ok_or_else(|| "the number cannot be formatted".into());
        }
        let integer = number.to_big().map_err(|error| Fault(error.to_string()))?;
        Ok(match i64::try_from(integer.as_ref()) {
            Ok(small) => Self::Integer(small.into(), "int64"),
            Err(_) => Self::Large(integer.as_ref().clone()),
        })
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Integer(_, kind) | Self::Text(_, kind) | Self::Shown(_, kind) => kind,
            Self::Large(_) => "*big.Int",
            Self::Fraction(_) => "float64",
        }
    }
}

fn sprintf(args: &[Value]) -> Result<Value, Fault> {
    let format_text = text_operand(args, 0)?;
    let Some(Value::Array(values)) = args.get(1) else { return Err(operand(2, "array")) };
    // Most formats are short and have few arguments.
    within(values.len() <= format_text.len().max(MAX_TEXT / 64), "too many arguments")?;
    let arguments = values.iter().map(Argument::of).collect::<Result<Vec<_>, _>>()?;
    format(format_text, &arguments).map(Value::from)
}

/// Go's `fmt.Sprintf`.
pub(super) fn format(format: &str, arguments: &[Argument]) -> Result<String, Fault> {
    let mut printer = Printer { out: String::with_capacity(format.len()), flags: Flags::default() };
    Reader { rest: format, arguments, next: 0, is_good: true, reordered: false }.run(&mut printer)?;
    Ok(printer.out)
}

/// How one argument is printed.
#[derive(Default, Clone)]
struct Flags {
    sharp: bool,
    zero: bool,
    plus: bool,
    minus: bool,
    space: bool,
    /// `%#v` and `%+v`.
    sharp_v: bool,
    plus_v: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

impl Flags {
    fn is_bare(&self) -> bool {
        let Self { sharp, zero, plus, minus, space, sharp_v, plus_v, width, precision } = self;
        !(*sharp || *zero || *plus || *minus || *space || *sharp_v || *plus_v) && width.is_none() && precision.is_none()
    }
}

/// Goes through a format.
struct Reader<'a> {
    rest: &'a str,
    arguments: &'a [Argument],
    /// The argument that is next.
    next: usize,
    /// Whether the indices of this verb (`%[2]d`) are sound.
    is_good: bool,
    /// Whether any verb had an index.
    reordered: bool,
}

impl Reader<'_> {
    fn run(mut self, printer: &mut Printer) -> Result<(), Fault> {
        while let Some((plain, rest)) = self.rest.split_once('%') {
            printer.out.push_str(plain);
            self.rest = rest;
            if !self.verb(printer)? {
                return self.extra(printer);
            }
            within(printer.out.len() <= MAX_TEXT, "the text is too large")?;
        }
        printer.out.push_str(self.rest);
        within(printer.out.len() <= MAX_TEXT, "the text is too large")?;
        self.extra(printer)
    }

    fn take(&mut self, letter: char) -> bool {
        let rest = self.rest.strip_prefix(letter);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// One verb behind its `%`; not when the format ends before it.
    fn verb(&mut self, printer: &mut Printer) -> Result<bool, Fault> {
        let flags = &mut printer.flags;
        *flags = Flags::default();
        self.is_good = true;
        loop {
            match self.rest.chars().next() {
                Some('#') => flags.sharp = true,
                Some('0') => flags.zero = true,
                Some('+') => flags.plus = true,
                Some('-') => flags.minus = true,
                Some(' ') => flags.space = true,
                _ => break,
            }
            self.rest = self.rest.get(1..).unwrap_or_default();
        }
        let mut after_index = self.index();
        if self.take('*') {
            let width = self.argument_as_number();
            if width.is_none() {
                printer.out.push_str("%!(BADWIDTH)");
            }
            if width.is_some_and(|width| width < 0) {
                flags.minus = true;
                flags.zero = false;
            }
            flags.width = width.map(|width| width.unsigned_abs() as usize);
            after_index = false;
        } else {
            flags.width = self.number();
            self.is_good &= !(after_index && flags.width.is_some());
        }
        if self.rest.len() > 1 && self.take('.') {
            self.is_good &= !after_index;
            after_index = self.index();
            if self.take('*') {
                let precision = self.argument_as_number().and_then(|number| usize::try_from(number).ok());
                if precision.is_none() {
                    printer.out.push_str("%!(BADPREC)");
                }
                flags.precision = precision;
                after_index = false;
            } else {
                flags.precision = Some(self.number().unwrap_or(0));
            }
        }
        if !after_index {
            self.index();
        }
        let mut letters = self.rest.chars();
        let Some(verb) = letters.next() else {
            printer.out.push_str("%!(NOVERB)");
            return Ok(false);
        };
        self.rest = letters.as_str();
        match self.arguments.get(self.next) {
            _ if verb == '%' => printer.out.push('%'),
            _ if !self.is_good => printer.out.push_str(&format!("%!{verb}(BADINDEX)")),
            None => printer.out.push_str(&format!("%!{verb}(MISSING)")),
            Some(argument) => {
                if matches!(verb, 'v' | 'w') {
                    flags.sharp_v = std::mem::take(&mut flags.sharp);
                    flags.plus_v = std::mem::take(&mut flags.plus);
                }
                printer.argument(argument, verb)?;
                self.next += 1;
            }
        }
        Ok(true)
    }

    /// `[n]`, which makes the nth argument the next.
    fn index(&mut self) -> bool {
        let Some(inner) = self.rest.strip_prefix('[') else { return false };
        self.reordered = true;
        let Some((digits, rest)) = inner.split_once(']') else {
            self.rest = inner;
            self.is_good = false;
            return false;
        };
        self.rest = rest;
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let Some(index) = digits.parse::<usize>().ok().filter(|index| is_number && *index <= MAX_WIDTH) else {
            self.is_good = false;
            return false;
        };
        match index.checked_sub(1).filter(|index| *index < self.arguments.len()) {
            Some(index) => self.next = index,
            None => self.is_good = false,
        }
        true
    }

    /// A width or precision; the format is over where it is too large.
    fn number(&mut self) -> Option<usize> {
        let end = self.rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        if digits.is_empty() {
            return None;
        }
        let number = digits.parse().ok().filter(|number| *number <= MAX_WIDTH);
        if number.is_none() {
            self.rest = "";
        }
        number
    }

    /// The next argument as a width or precision.
    fn argument_as_number(&mut self) -> Option<i64> {
        let argument = self.arguments.get(self.next)?;
        self.next += 1;
        let Argument::Integer(number, _) = argument else { return None };
        i64::try_from(number).ok().filter(|number| number.unsigned_abs() <= MAX_GIVEN_WIDTH)
    }

    /// Tells of arguments that no verb asked for.
    fn extra(&self, printer: &mut Printer) -> Result<(), Fault> {
        let Some(extra) = self.arguments.get(self.next..).filter(|extra| !extra.is_empty() && !self.reordered) else {
            return Ok(());
        };
        printer.flags = Flags::default();
        printer.out.push_str("%!(EXTRA ");
        for (index, argument) in extra.iter().enumerate() {
            printer.out.push_str(if index > 0 { ", " } else { "" });
            if argument.kind() != NO_TYPE {
                printer.out.push_str(argument.kind());
                printer.out.push('=');
            }
            printer.argument(argument, 'v')?;
            within(printer.out.len() <= MAX_TEXT, "the text is too large")?;
        }
        printer.out.push(')');
        Ok(())
    }
}

/// Prints arguments by verb.
struct Printer {
    out: String,
    flags: Flags,
}

impl Printer {
    fn argument(&mut self, argument: &Argument, verb: char) -> Result<(), Fault> {
        match (argument, verb) {
            (Argument::Shown(text, kind), _) if self.flags.is_bare() && (verb == 'v' || (verb == 't' && *kind == "bool")) => {
                self.out.push_str(text);
            }
            (Argument::Shown(..), _) => return Err(Fault::limit("this verb for what is no text or number is not supported")),
            (argument, 'T') => self.text(argument.kind()),
            (argument, 'p') => self.bad_verb(argument, verb)?,
            (Argument::Integer(number, _), _) if self.integer(number, verb)? => {}
            (Argument::Large(number), _) => self.large(number, verb),
            (Argument::Fraction(number), _) if self.fraction(*number, verb)? => {}
            (Argument::Text(text, _), 'v') if self.flags.sharp_v => self.quoted(text)?,
            (Argument::Text(text, _), 'v' | 's') => self.text(text),
            (Argument::Text(text, _), 'q') => self.quoted(text)?,
            (Argument::Text(text, _), 'x' | 'X') => self.hex(text, verb),
            (argument, _) => self.bad_verb(argument, verb)?,
        }
        Ok(())
    }

    fn bad_verb(&mut self, argument: &Argument, verb: char) -> Result<(), Fault> {
        self.out.push_str(&format!("%!{verb}({}=", argument.kind()));
        self.argument(argument, 'v')?;
        self.out.push(')');
        Ok(())
    }

    /// So many characters of a text as the precision allows.
    fn truncated<'t>(&self, text: &'t str) -> &'t str {
        let end = self.flags.precision.and_then(|most| text.char_indices().nth(most));
        end.and_then(|(end, _)| text.get(..end)).unwrap_or(text)
    }

    fn text(&mut self, text: &str) {
        let text = self.truncated(text);
        self.pad(text);
    }

    fn quoted(&mut self, text: &str) -> Result<(), Fault> {
        let text = self.truncated(text);
        let plain = |letter: char| letter == '\t' || !(letter.is_control() || matches!(letter, '`' | '\u{feff}'));
        let quoted = if self.flags.sharp && text.chars().all(plain) {
            format!("`{text}`")
        } else if self.flags.plus {
            ascii(&term::quote(text)?)
        } else {
            term::quote(text)?
        };
        self.pad(&quoted);
        Ok(())
    }

    /// The bytes of a text in hex.
    fn hex(&mut self, text: &str, verb: char) {
        let bytes = text.as_bytes();
        let bytes = self.flags.precision.and_then(|most| bytes.get(..most)).unwrap_or(bytes);
        let each: Vec<_> =
            bytes.iter().map(|byte| if verb == 'x' { format!("{byte:02x}") } else { format!("{byte:02X}") }).collect();
        let prefix = if self.flags.sharp { format!("0{verb}") } else { String::new() };
        let shown = match (bytes.is_empty(), self.flags.space) {
            (true, _) => String::new(),
            (false, true) => each.iter().map(|byte| format!("{prefix}{byte}")).collect::<Vec<_>>().join(" "),
            (false, false) => prefix + &each.concat(),
        };
        self.pad(&shown);
    }

    /// The text in a field of the width that was asked for.
    fn pad(&mut self, text: &str) {
        let missing = self.flags.width.map_or(0, |width| width.saturating_sub(text.chars().count()));
        let Flags { zero, minus, .. } = self.flags;
        if minus {
            self.out.push_str(text);
            self.out.extend(std::iter::repeat_n(' ', missing));
        } else {
            self.out.extend(std::iter::repeat_n(if zero { '0' } else { ' ' }, missing));
            self.out.push_str(text);
        }
    }

    /// The same without zeros.
    fn pad_with_spaces(&mut self, text: &str) {
        let zero = std::mem::take(&mut self.flags.zero);
        self.pad(text);
        self.flags.zero = zero;
    }
}

/// A quoted text with what is not ASCII escaped.
fn ascii(quoted: &str) -> String {
    let mut out = String::with_capacity(quoted.len());
    for letter in quoted.chars() {
        match u32::from(letter) {
            0..=0x7f => out.push(letter),
            code @ 0x80..=0xffff => out.push_str(&format!("\\u{code:04x}")),
            code => out.push_str(&format!("\\U{code:08x}")),
        }
    }
    out
}

#[cfg(test)]
mod tests;
