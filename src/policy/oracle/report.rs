//! The table of a run over OPA's suite, and whether it is as good as it must be.

use std::{collections::BTreeMap, env, fmt::Write, fs, path::Path};

use super::suite::{Case, Outcome};

/// Cases that are answered otherwise than by OPA, each with why that turns no denial into an allow.
const EXCEPTIONS: &[(&str, &str)] = &[];
/// More are not to be had.
const MOST_EXCEPTIONS: usize = 15;
/// Share of all cases that must be answered as by OPA, and of those that are not left out by intention, in percent.
const LEAST: usize = 85;
const LEAST_OF_INTENDED: usize = 97;

#[derive(Default, Clone, Copy)]
struct Row {
    cases: usize,
    pass: usize,
    errors: usize,
    refused: usize,
    wrong: usize,
    missed: usize,
    panics: usize,
}

impl Row {
    fn add(&mut self, outcome: &Outcome) {
        self.cases += 1;
        *match outcome {
            Outcome::Pass => &mut self.pass,
            Outcome::Error => &mut self.errors,
            Outcome::Refused(_) => &mut self.refused,
            Outcome::Wrong(_) => &mut self.wrong,
            Outcome::Missed(_) => &mut self.missed,
            Outcome::Panic(_) => &mut self.panics,
        } += 1;
    }

    const fn good(&self) -> usize {
        self.pass + self.errors
    }

    fn line(&self, name: &str) -> String {
        let Self { cases, pass, errors, refused, wrong, missed, panics } = self;
        format!("| {name} | {cases} | {pass} | {errors} | {refused} | {wrong} | {missed} | {panics} |")
    }
}

pub(super) struct Report<'a> {
    all: Vec<(&'a Case, &'a Outcome)>,
}

impl<'a> Report<'a> {
    pub(super) fn of(cases: &'a [Case], outcomes: &'a [Outcome]) -> Self {
        Self { all: cases.iter().zip(outcomes).collect() }
    }

    pub(super) fn print_all(&self) {
        for (case, outcome) in &self.all {
            eprintln!("{} {}: {outcome:?}", case.folder, case.note);
        }
    }

    /// Fails when the run is worse than it must be, or `file` tells otherwise; writes it under `UPDATE`.
    pub(super) fn check_against(&self, file: &Path) {
        for (case, outcome) in &self.all {
            let excepted = EXCEPTIONS.iter().any(|(note, _)| *note == case.note);
            if matches!(outcome, Outcome::Wrong(_) | Outcome::Missed(_) | Outcome::Panic(_)) && !excepted {
                eprintln!("{} {}: {outcome:?}", case.folder, case.note);
            }
            if env::var_os("SHOW_REFUSED").is_some()
                && let Outcome::Refused(why) = outcome
            {
                eprintln!("REFUSED {} {}: {why}", case.folder, case.note);
            }
        }
        let text = self.text();
        if env::var_os("UPDATE").is_some() {
            fs::write(file, &text).unwrap();
        }
        let (all, intended) = self.totals();
        eprintln!("{}\n{}", all.line("all"), intended.line("intended"));
        let excepted = self.all.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Wrong(_))).count();
        assert!(EXCEPTIONS.len() <= MOST_EXCEPTIONS && excepted <= EXCEPTIONS.len(), "{excepted} wrong answers");
        assert_eq!((all.missed, all.panics), (0, 0), "errors missed, panics");
        assert!(all.good() * 100 >= all.cases * LEAST, "{} of {}", all.good(), all.cases);
        assert!(intended.good() * 100 >= intended.cases * LEAST_OF_INTENDED, "{} of {}", intended.good(), intended.cases);
        assert!(fs::read_to_string(file).is_ok_and(|old| old == text), "run `bash tests/conformance.sh --update`");
    }

    fn totals(&self) -> (Row, Row) {
        let (mut all, mut intended) = (Row::default(), Row::default());
        for (case, outcome) in &self.all {
            all.add(outcome);
            if !case.is_left_out() {
                intended.add(outcome);
            }
        }
        (all, intended)
    }

    fn text(&self) -> String {
        let mut folders: BTreeMap<&str, Row> = BTreeMap::new();
        let mut refusals: BTreeMap<&str, usize> = BTreeMap::new();
        for (case, outcome) in &self.all {
            folders.entry(&case.folder).or_default().add(outcome);
            if let Outcome::Refused(why) = outcome {
                *refusals.entry(why.split(' ').next().unwrap_or_default()).or_default() += 1;
            }
        }
        let (all, intended) = self.totals();
        let mut text = "# OPA's suite\n\nMade by `bash tests/conformance.sh --update`: the cases of OPA 1.22.2, each loaded and \
            evaluated as a policy is here. *Pass*: OPA's answer.\n*Error*: OPA's error, at load or at evaluation. *Refused*: \
            refused at load where OPA answers. *Wrong*, *missed* (an answer where OPA\nhas an error) and *panic* are what must not be.\n\n"
            .to_owned();
        let head = "| folder | cases | pass | error | refused | wrong | missed | panic |\n|---|---|---|---|---|---|---|---|";
        let _ = writeln!(text, "{head}\n{}", all.line("all"));
        let _ = writeln!(text, "{}\n", intended.line("without graphql, experimental keywords and keyword roots"));
        let _ = writeln!(text, "| refused as | cases |\n|---|---|");
        for (code, count) in refusals {
            let _ = writeln!(text, "| `{code}` | {count} |");
        }
        if !EXCEPTIONS.is_empty() {
            let _ = writeln!(text, "\n| wrong by exception | why no denial becomes an allow |\n|---|---|");
            for (note, why) in EXCEPTIONS {
                let _ = writeln!(text, "| {note} | {why} |");
            }
        }
        let _ = writeln!(text, "\n{head}");
        for (folder, row) in folders {
            let _ = writeln!(text, "{}", row.line(folder));
        }
        text
    }
}
