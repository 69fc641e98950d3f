//! The order of revisions, and the newest one of each bundle that was in force, which `policy.cache` remembers: an older
//! bundle, though it is genuine, may bring back what was taken away.

use std::{cmp::Ordering, fs, io, path::Path};

use chrono::DateTime;

use super::label;
use crate::{
    config::{self, Bundle},
    policy::{
        problem::{Code, Problem},
        store,
    },
};

/// Longest revision that is remembered or compared.
const MAX_REVISION: usize = 256;

/// Refuses a revision that is older than the newest one that was in force, where the configuration asks for that.
pub(super) fn check(bundle: &Bundle, revision: &str, config: &config::Policy) -> Result<(), Problem> {
    let (true, Some(name), Some(folder)) = (bundle.forbid_rollback, &bundle.name, &config.cache) else { return Ok(()) };
    let refuse = |code, text: String| Err(Problem::of_file(code, label(bundle), text));
    if Revision::parse(revision).is_none() {
        let text = "write a whole number, an RFC 3339 time or a version like `1.4.2`, or leave out `forbid_rollback`";
        return refuse(Code::Rollback, format!("its revision `{}` has no order; {text}", shown(revision)));
    }
    let newest = match newest(folder, name) {
        Ok(newest) => newest,
        Err(error) => return refuse(Code::Cache, format!("the newest revision cannot be read from `policy.cache`: {error}")),
    };
    let Some(newest) = newest else { return Ok(()) };
    let file = file(name);
    match compare(revision, &newest) {
        Some(Ordering::Less) => {
            let text = format!("to go back by intent, delete `{file}` in `policy.cache`");
            refuse(
                Code::Rollback,
                format!("its revision `{}` is older than `{}`, which was in force; {text}", shown(revision), shown(&newest)),
            )
        }
        Some(_) => Ok(()),
        None => {
            let text = format!("keep to one form, or delete `{file}` in `policy.cache`");
            refuse(
                Code::Rollback,
                format!("its revision `{}` cannot be compared with `{}`; {text}", shown(revision), shown(&newest)),
            )
        }
    }
}

/// Remembers `revision` of a bundle that comes into force.
pub(in crate::policy) fn accept(bundle: &Bundle, revision: &str, config: &config::Policy) -> Result<(), Problem> {
    let (true, Some(name), Some(folder)) = (bundle.forbid_rollback, &bundle.name, &config.cache) else { return Ok(()) };
    let written = match newest(folder, name) {
        Ok(Some(newest)) if compare(revision, &newest) != Some(Ordering::Greater) => return Ok(()),
        Ok(_) => store::write(folder, &file(name), &[revision.as_bytes()]),
        Err(error) => Err(error),
    };
    written.map_err(|error| {
        let text = format!("its revision cannot be remembered in `policy.cache`: {error}; make the folder writable");
        Problem::of_file(Code::Cache, label(bundle), text)
    })
}

fn file(name: &str) -> String {
    format!("{name}.revision")
}

fn newest(folder: &Path, name: &str) -> io::Result<Option<String>> {
    let text = match fs::read_to_string(folder.join(file(name))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    if Revision::parse(&text).is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("`{}` holds no revision", file(name))));
    }
    Ok(Some(text))
}

fn shown(revision: &str) -> String {
    revision.chars().take(64).collect()
}

/// None when the two are of different forms or have none.
fn compare(a: &str, b: &str) -> Option<Ordering> {
    match (Revision::parse(a)?, Revision::parse(b)?) {
        (Revision::Number(a), Revision::Number(b)) => Some(a.cmp(&b)),
        (Revision::Time(a), Revision::Time(b)) => Some(a.cmp(&b)),
        (Revision::Version(a, a_pre), Revision::Version(b, b_pre)) => Some(a.cmp(&b).then_with(|| {
            // Before a release come its pre-releases (semver.org, 11).
            match (a_pre.is_empty(), b_pre.is_empty()) {
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                _ => a_pre.cmp(&b_pre),
            }
        })),
        _ => None,
    }
}

enum Revision<'a> {
    Number(Number<'a>),
    /// In nanoseconds.
    Time(i128),
    Version(Vec<Number<'a>>, Vec<Identifier<'a>>),
}

/// A whole number of any size: by the count of its digits, then by them.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Number<'a>(usize, &'a str);

/// A part of a pre-release: numbers come before words.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Identifier<'a> {
    Number(Number<'a>),
    Word(&'a str),
}

impl<'a> Revision<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        if text.len() > MAX_REVISION {
            return None;
        }
        if let Some(number) = Number::parse(text) {
            return Some(Self::Number(number));
        }
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Some(Self::Time(i128::from(time.timestamp()) * 1_000_000_000 + i128::from(time.timestamp_subsec_nanos())));
        }
        let text = text.strip_prefix('v').unwrap_or(text);
        let text = text.split_once('+').map_or(text, |(version, _build)| version);
        let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
        let core: Vec<_> = core.split('.').map(Number::parse).collect::<Option<_>>()?;
        let pre = pre.map_or(Some(Vec::new()), |pre| pre.split('.').map(Identifier::parse).collect())?;
        (core.len() == 3).then_some(Self::Version(core, pre))
    }
}

impl<'a> Number<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let digits = text.trim_start_matches('0');
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(Self(digits.len(), digits))
    }
}

impl<'a> Identifier<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        plain.then(|| Number::parse(text).map_or(Self::Word(text), Self::Number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_ordered_by_number_time_or_version() {
        for (a, b, order) in [
            ("9", "10", Some(Ordering::Less)),
            ("007", "7", Some(Ordering::Equal)),
            ("99999999999999999999999999", "100000000000000000000000000", Some(Ordering::Less)),
            ("2026-11-22T10:00:00Z", "2026-11-22T12:00:00+01:00", Some(Ordering::Less)),
            ("2026-11-22T10:00:00.5Z", "2026-11-22T10:00:00Z", Some(Ordering::Greater)),
            ("v1.2.3", "1.2.10", Some(Ordering::Less)),
            ("1.2.3", "1.2.3+build.7", Some(Ordering::Equal)),
            ("1.2.3-rc.1", "1.2.3", Some(Ordering::Less)),
            ("1.2.3-rc.2", "1.2.3-rc.10", Some(Ordering::Less)),
            ("1.2.3-1", "1.2.3-alpha", Some(Ordering::Less)),
            ("1.2.3-a", "1.2.3-a.b", Some(Ordering::Less)),
            ("1", "1.0.0", None),
            ("a1b2c3", "a1b2c4", None),
            ("", "1", None),
            ("-1", "1", None),
            ("1.2", "1.2", None),
        ] {
            assert_eq!(compare(a, b), order, "{a} and {b}");
            assert_eq!(compare(b, a), order.map(Ordering::reverse), "{b} and {a}");
        }
    }
}
