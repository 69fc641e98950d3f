//! `doorward explain`: why a decision was made.

use std::io::IsTerminal as _;

use serde_json::Value;
use tonic::Status;

use super::{
    Exit, Output,
    control::{self, inert, print_json},
    print,
};
use crate::control::proto::{
    to_json,
    v1::{Decision, Evaluation, ExplainRequest, ExplainResponse, explain_service_client::ExplainServiceClient},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The record comes from memory or from the record files, and the policy that decided is asked once
more, with the input as the record keeps it: masked, and cut where it was long. What is gone, or
comes out otherwise for that, is said.

Examples:
  doorward explain 019b0c3e-6f5d-7a30-9f3e-2f6c1d7a4b10
  doorward explain 019b0c3e-6f5d-7a30-9f3e-2f6c1d7a4b10 --output json | jq .evaluation.facts

Exit codes: 0 explained, 1 failed, or no record of it is left, 2 not allowed to ask, 3 invalid")]
pub(super) struct Args {
    /// Id of the decision: in its record, in `doorward tail`, and in the header `x-doorward-decision-id`
    #[arg(value_name = "ID")]
    id: String,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    control: control::Args,
}

pub(super) fn run(args: &Args) -> Exit {
    args.control.run(async |channel| explain(args, channel).await)
}

async fn explain(args: &Args, channel: control::Api) -> Result<Exit, Status> {
    // Every line and fact of the deepest evaluation may come back.
    let mut client = ExplainServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    let explained = client.explain(ExplainRequest { id: args.id.clone() }).await?.into_inner();
    Ok(match args.output {
        Output::Table => print(table(&explained, std::io::stdout().is_terminal())),
        Output::Json => print_json(json(&explained)),
    })
}

/// With the record and the result as JSON, not as texts.
fn json(explained: &ExplainResponse) -> Option<Value> {
    let mut value = to_json(explained)?;
    for path in ["/record", "/evaluation/result"] {
        if let Some(text) = value.pointer_mut(path)
            && let Some(parsed) = text.as_str().and_then(|text| serde_json::from_str(text).ok())
        {
            *text = parsed;
        }
    }
    Some(value)
}

fn table(explained: &ExplainResponse, coloured: bool) -> String {
    let ExplainResponse { recorded, source, evaluation, notes, record: _ } = explained;
    let recorded = recorded.clone().unwrap_or_default();
    let mut text = verdict(&recorded.decision, &recorded.reason, coloured);
    let at = recorded.at.as_ref().map(ToString::to_string).unwrap_or_default();
    let Decision {
        id,
        rule,
        policy_reason,
        detail,
        principal,
        action,
        tier,
        session,
        listener,
        revision,
        request_id,
        grant,
        revocation,
        ..
    } = &recorded;
    let let_through = if recorded.enforced { "" } else { "observe: the call was let through all the same" };
    for (name, value) in [
        ("mode", let_through),
        ("rule", rule),
        ("says", policy_reason),
        ("detail", detail),
        ("revoked", revocation),
        ("principal", principal),
        ("grant", grant),
        ("action", action),
        ("tier", tier),
        ("session", session),
        ("at", &at),
        ("id", id),
        ("request", request_id),
        ("listener", listener),
        ("revision", revision),
        ("found in", source),
    ] {
        line(&mut text, name, value);
    }
    if let Some(evaluation) = evaluation {
        again(&mut text, evaluation, coloured);
    }
    list(&mut text, "notes", notes.iter().map(|note| inert(note).into_owned()));
    text
}

fn again(text: &mut String, evaluation: &Evaluation, coloured: bool) {
    let Evaluation { decision, reason, rule, policy_reason, detail, result, same, lines, facts, prints } = evaluation;
    let verdict = verdict(decision, reason, coloured);
    text.push_str(&format!("\n\nasked again: {verdict}, {}", if *same { "as recorded" } else { "not as recorded" }));
    for (name, value) in [("rule", rule), ("says", policy_reason), ("detail", detail), ("result", result)] {
        line(text, name, value);
    }
    let places: Vec<String> = lines.iter().map(|line| format!("{}:{}", line.file, line.line)).collect();
    let width = places.iter().map(String::len).max().unwrap_or(0);
    let shown =
        places.iter().zip(lines).map(|(place, line)| format!("{place:width$}  {}", inert(&line.text.replace('\t', "    "))));
    list(text, "lines that were evaluated", shown);
    let fact = |value: &str| if value.is_empty() { "(nothing)".to_owned() } else { inert(value).into_owned() };
    list(text, "what they read of the input", facts.iter().map(|read| format!("{} = {}", inert(&read.path), fact(&read.value))));
    list(text, "printed", prints.iter().map(|print| inert(print).into_owned()));
}

fn verdict(decision: &str, reason: &str, coloured: bool) -> String {
    let (open, close) = match (coloured, decision) {
        (false, _) => ("", ""),
        (true, "allow") => ("\x1b[1;32m", "\x1b[0m"),
        (true, _) => ("\x1b[1;31m", "\x1b[0m"),
    };
    format!("{open}{}{close}  {}", inert(decision), inert(reason))
}

fn line(text: &mut String, name: &str, value: &str) {
    if !value.is_empty() {
        text.push_str(&format!("\n{name:<10}{}", inert(value)));
    }
}

fn list(text: &mut String, heading: &str, lines: impl Iterator<Item = String>) {
    let lines: Vec<_> = lines.collect();
    if !lines.is_empty() {
        text.push_str(&format!("\n\n{heading}:\n  {}", lines.join("\n  ")));
    }
}
