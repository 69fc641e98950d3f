//! `regex.globs_match`: whether some text matches both of two simple patterns, made of characters, `.` and sets `[a-z]`, each
//! with `*` or `+` behind it or neither. Both are walked at once, so the work is bounded by the product of their lengths.

use std::{collections::BTreeSet, ops::RangeInclusive};

use crate::policy::builtins::Fault;

/// Longest pattern in characters.
const MAX_LENGTH: usize = 256;

enum Letters {
    Any,
    Ranges(Vec<RangeInclusive<char>>),
}

impl Letters {
    /// Whether one letter is in both.
    fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, Self::Ranges(ranges)) | (Self::Ranges(ranges), Self::Any) => !ranges.is_empty(),
            (Self::Any, Self::Any) => true,
            (Self::Ranges(a), Self::Ranges(b)) => {
                a.iter().any(|a| b.iter().any(|b| a.start() <= b.end() && b.start() <= a.end()))
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Once,
    Star,
    Plus,
}

type Pattern = Vec<(Letters, Repeat)>;

pub(super) fn intersect(a: &str, b: &str) -> Result<bool, Fault> {
    let (a, b) = (parse(a)?, parse(b)?);
    let mut seen = BTreeSet::new();
    let mut todo = vec![(0, 0)];
    while let Some((at_a, at_b)) = todo.pop() {
        if !seen.insert((at_a, at_b)) {
            continue;
        }
        let (next_a, next_b) = (a.get(at_a), b.get(at_b));
        if next_a.is_none() && next_b.is_none() {
            return Ok(true);
        }
        // A star may be passed by.
        if next_a.is_some_and(|(_, repeat)| *repeat == Repeat::Star) {
            todo.push((at_a + 1, at_b));
        }
        if next_b.is_some_and(|(_, repeat)| *repeat == Repeat::Star) {
            todo.push((at_a, at_b + 1));
        }
        let (Some((letters_a, repeat_a)), Some((letters_b, repeat_b))) = (next_a, next_b) else { continue };
        if letters_a.meets(letters_b) {
            for step_a in steps(at_a, *repeat_a) {
                todo.extend(steps(at_b, *repeat_b).map(|step_b| (step_a, step_b)));
            }
        }
    }
    Ok(false)
}

/// Where a letter leads: behind the element, or back to it.
fn steps(at: usize, repeat: Repeat) -> impl Iterator<Item = usize> + Clone {
    let again = (repeat != Repeat::Once).then_some(at);
    std::iter::once(at + 1).chain(again)
}

fn parse(text: &str) -> Result<Pattern, Fault> {
    if text.chars().count() > MAX_LENGTH {
        return Err("the input provided is too long".into());
    }
    let invalid = |why: &str| Fault(format!("input:{text}, {why}: the input provided is invalid"));
    let mut pattern = Pattern::new();
    let mut rest = text.chars().peekable();
    while let Some(letter) = rest.next() {
        let letters = match letter {
            '.' => Letters::Any,
            '[' => {
                let mut ranges = Vec::new();
                let mut before = None;
                loop {
                    match rest.next().ok_or_else(|| invalid("found [ without matching ]"))? {
                        ']' => break,
                        '-' => {
                            let from = before.take().ok_or_else(|| invalid("range character '-' must be preceded"))?;
                            let to = match rest.next() {
                                Some('\\') => rest.next(),
                                Some(']' | '-') | None => None,
                                other => other,
                            };
                            let to = to.filter(|to| from <= *to).ok_or_else(|| invalid("range is out of order"))?;
                            ranges.push(from..=to);
                        }
                        '\\' => {
                            let escaped = rest.next().ok_or_else(|| invalid("input ends with a \\"))?;
                            ranges.push(escaped..=escaped);
                            before = Some(escaped);
                        }
                        other => {
                            ranges.push(other..=other);
                            before = Some(other);
                        }
                    }
                }
                Letters::Ranges(ranges)
            }
            ']' => return Err(invalid("set-close ']' with no preceding '['")),
            '*' | '+' => return Err(invalid("a flag must be preceded by a non-flag")),
            '\\' => {
                let escaped = rest.next().ok_or_else(|| invalid("input ends with a \\"))?;
                Letters::Ranges(vec![escaped..=escaped])
            }
            other => Letters::Ranges(vec![other..=other]),
        };
        let repeat = match rest.peek() {
            Some('*') => Repeat::Star,
            Some('+') => Repeat::Plus,
            _ => Repeat::Once,
        };
        if repeat != Repeat::Once {
            rest.next();
        }
        pattern.push((letters, repeat));
    }
    Ok(pattern)
}
