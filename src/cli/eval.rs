//! `doorward eval`: one question, answered as a sidecar would, with all that took part in the answer.

use std::io::IsTerminal as _;

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{
    Exit, Output, complain, print,
    question::{self, Given},
    source::{self, Sidecar},
};
use crate::{
    authorizer::trial::{Answered, answer},
    clock,
    envoy::{
        encode,
        shown::{Header, Shown, shown},
    },
    policy::{facts::Fact, inspect::Explanation, problem::Problem},
    verdict::{Decision, Mode, Reason},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  doorward eval --policy policy/ --path '/orders?id=7' --peer spiffe://example.org/ns/shop/sa/reader
  doorward eval --policy policy/ --path /orders --header 'x-tenant: acme' --body @order.json
  doorward eval --policy policy/ --input input.json
  doorward eval --config doorward.yaml --input check.pb
  sed -n 7p records.jsonl | doorward eval --policy new/ --input - --output json | jq .decision

Exit codes: 0 allowed, 1 failed, 2 denied, 3 the question or the policy cannot be used")]
pub(super) struct Args {
    #[command(flatten)]
    source: source::Args,
    /// How to print the answer
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    question: question::Args,
}

pub(super) fn run(args: &Args) -> Exit {
    let report = match ask(args) {
        Ok(report) => report,
        Err(exit) => return exit,
    };
    let printed = match args.output {
        Output::Table => print(report.table()),
        Output::Json => match serde_json::to_string_pretty(&report) {
            Ok(text) => print(text),
            Err(error) => {
                complain(error);
                Exit::Failed
            }
        },
    };
    match (printed, report.decision) {
        (Exit::Done, Decision::Deny) => Exit::Denied,
        (exit, _) => exit,
    }
}

fn ask(args: &Args) -> Result<Report, Exit> {
    let invalid = |error: anyhow::Error| {
        complain(super::chain(error));
        Exit::Invalid
    };
    let now = clock::now();
    let (given, now) = args.question.read(now).map_err(invalid)?;
    let sidecar = args.source.open(now)?;
    let (form, mut notes) = (given.form(), Vec::new());
    let (recorded, masked) = match &given {
        Given::Record(kept) => (
            Some(Recorded {
                id: kept.id.clone(),
                decision: kept.decision.clone(),
                reason: kept.reason.clone(),
                revision: kept.revision.clone(),
            }),
            kept.masked.clone(),
        ),
        Given::Check(_) | Given::Document(_) => (None, Vec::new()),
    };
    let prepared = args.question.prepare(given, &sidecar, now, &mut notes).map_err(invalid)?;
    let answered = answer(&prepared.asked(&sidecar), &sidecar.policy, &sidecar.settings, now);
    let settings = encode::Settings::new(&sidecar.settings);
    let answer = shown(encode::encode(&answered.outcome, &prepared.shape(), &settings));
    let action = prepared.request().map(|request| sidecar.policy.set.documents().catalogue.explain(request)).unwrap_or_default();
    Ok(Report { form, notes, masked, recorded, action, ..Report::new(answered, answer, &sidecar) })
}

/// The JSON form. Members are added, never renamed.
#[derive(Serialize)]
struct Report {
    decision: Decision,
    reason: Reason,
    /// The policy's whole answer; null where it gave none.
    result: Option<Value>,
    /// The policy author's name for the rule that decided.
    rule: Option<String>,
    /// The policy's own text.
    policy_reason: Option<String>,
    /// What went wrong.
    detail: Option<String>,
    /// False where the answer lets through in spite of the decision.
    enforced: bool,
    #[serde(flatten)]
    explanation: Explanation,
    /// What Envoy would be told.
    answer: Shown,
    /// What the question was taken for.
    form: &'static str,
    input: Value,
    /// Which entries of the catalogue match the request, the one that counts first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    action: Vec<String>,
    /// What was taken on trust.
    notes: Vec<String>,
    /// Parts of a record's input that are not as they were.
    masked: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recorded: Option<Recorded>,
    findings: Vec<Problem>,
    revision: String,
    digest: String,
    /// Of the evaluation; null where the policy was not asked.
    #[serde(serialize_with = "nanoseconds")]
    duration_ns: Option<std::time::Duration>,
}

/// What a record says was decided.
#[derive(Serialize)]
struct Recorded {
    id: String,
    decision: String,
    reason: String,
    revision: Option<String>,
}

fn nanoseconds<S: Serializer>(duration: &Option<std::time::Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)).serialize(serializer)
}

impl Report {
    fn new(answered: Answered, answer: Shown, sidecar: &Sidecar) -> Self {
        let Answered { outcome, result, input, evaluated } = answered;
        let (duration_ns, explanation) =
            evaluated.map_or_else(Default::default, |evaluated| (Some(evaluated.took), evaluated.explanation));
        let said = outcome.answer.as_ref();
        let warnings = said.map(|said| said.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
        let set = &sidecar.policy.set;
        Self {
            decision: outcome.decision,
            reason: outcome.reason,
            result,
            rule: said.and_then(|said| said.rule.clone()),
            policy_reason: said.and_then(|said| said.reason.clone()),
            detail: outcome.detail.clone().or_else(|| warnings.filter(|warnings| !warnings.is_empty())),
            enforced: outcome.mode == Mode::Enforce,
            explanation,
            answer,
            form: "",
            input,
            action: Vec::new(),
            notes: Vec::new(),
            masked: Vec::new(),
            recorded: None,
            findings: set.findings().to_vec(),
            revision: set.revision().to_string(),
            digest: set.digest().to_string(),
            duration_ns,
        }
    }

    fn table(&self) -> String {
        let (open, close) = match (std::io::stdout().is_terminal(), self.decision) {
            (false, _) => ("", ""),
            (true, Decision::Allow) => ("\x1b[1;32m", "\x1b[0m"),
            (true, Decision::Deny) => ("\x1b[1;31m", "\x1b[0m"),
        };
        let mut text = format!("{open}{}{close}  {}", self.decision.as_str(), self.reason);
        let mut line = |name: &str, value: &str| text.push_str(&format!("\n{name:<10}{value}"));
        let optional = [("rule", &self.rule), ("says", &self.policy_reason), ("detail", &self.detail)];
        for (name, value) in optional.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
            line(name, value);
        }
        if let Some(result) = &self.result {
            line("result", &result.to_string());
        }
        for (index, part) in answer_lines(&self.answer).iter().enumerate() {
            line(if index == 0 { "answer" } else { "" }, part);
        }
        if !self.enforced {
            line("mode", "observe: the call is let through all the same");
        }
        if let Some(Recorded { id, decision, reason, revision }) = &self.recorded {
            line("recorded", &format!("{decision}  {reason}, by revision {} ({id})", revision.as_deref().unwrap_or("unknown")));
        }
        line("revision", &self.revision);
        if let Some(took) = self.duration_ns {
            line("time", &format!("{took:.1?}"));
        }
        for (heading, lines) in self.lists() {
            if !lines.is_empty() {
                text.push_str(&format!("\n\n{heading}:\n  {}", lines.join("\n  ")));
            }
        }
        text
    }

    fn lists(&self) -> [(&'static str, Vec<String>); 7] {
        let lines = &self.explanation.lines;
        let places: Vec<String> = lines.iter().map(|line| format!("{}:{}", line.file, line.line)).collect();
        let width = places.iter().map(String::len).max().unwrap_or(0);
        let lines = places.iter().zip(lines).map(|(place, line)| format!("{place:width$}  {}", line.text.replace('\t', "    ")));
        [
            ("action", self.action.clone()),
            ("lines that were evaluated", lines.collect()),
            ("what they read of the input", self.explanation.facts.iter().map(fact).collect()),
            ("printed", self.explanation.prints.clone()),
            ("masked in the record, so not as they were", self.masked.clone()),
            ("findings", self.findings.iter().map(ToString::to_string).collect()),
            ("notes", self.notes.clone()),
        ]
    }
}

fn fact(fact: &Fact) -> String {
    format!("{} = {}", fact.path, fact.value.as_deref().unwrap_or("(nothing)"))
}

fn answer_lines(answer: &Shown) -> Vec<String> {
    let Shown { allowed, grpc_error, status, headers, response_headers, removed_headers, query_set, query_removed, body, .. } =
        answer;
    if let Some(error) = grpc_error {
        return vec![format!("gRPC error: {error}")];
    }
    let mut lines = vec![match (allowed, status) {
        (true, _) => "let through".to_owned(),
        (false, Some(status)) => status.to_string(),
        (false, None) => "refused".to_owned(),
    }];
    let line =
        |Header { name, value, append }: &Header| format!("{name}: {value}{}", if *append { "  (beside others)" } else { "" });
    let towards = if *allowed { "to the upstream" } else { "to the client" };
    lines.extend(headers.iter().map(|header| format!("{towards}  {}", line(header))));
    lines.extend(response_headers.iter().map(|header| format!("to the client  {}", line(header))));
    lines.extend(removed_headers.iter().map(|name| format!("removed  {name}")));
    lines.extend(query_set.iter().map(|(key, value)| format!("query  {key}={value}")));
    lines.extend(query_removed.iter().map(|key| format!("query removed  {key}")));
    if !body.is_empty() {
        lines.push(format!("body  {body}"));
    }
    lines
}
