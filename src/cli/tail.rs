//! `doorward tail`: decisions as they are made.

use std::io::{self, IsTerminal as _, Write as _};

use chrono::DateTime;
use serde_json::json;
use tonic::Status;

use super::{
    Exit, complain,
    control::{self, inert, or_dash},
    mention,
};
use crate::control::proto::v1::{
    Decision, FollowRequest, FollowedDecision, follow_response::Event, tail_service_client::TailServiceClient,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each line is time (UTC), decision, tier, principal, action, reason, what the policy says, and
the id that `explain` takes.

Examples:
  doorward tail
  doorward tail --decision deny --principal 'spiffe://example.org/ns/agents/*'
  doorward tail --action 'customer.*' --output json | jq .body.reason

Exit codes: 1 failed, or the doorward stopped, 2 not allowed to follow, 3 invalid")]
pub(super) struct Args {
    /// Only this principal's, or of all that begin so (`spiffe://example.org/*`)
    #[arg(long, value_name = "PRINCIPAL")]
    principal: Option<String>,
    /// Only this action, or all that begin so (`orders.*`)
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// Only allows, or only denials
    #[arg(long, value_enum)]
    decision: Option<Which>,
    /// How to print each: a line for people, or its whole record
    #[arg(long, value_enum, default_value_t = Output::Line)]
    output: Output,
    #[command(flatten)]
    control: control::Args,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    Allow,
    Deny,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Line,
    Json,
}

pub(super) fn run(args: &Args) -> Exit {
    args.control.run(async |channel| follow(args, channel).await)
}

async fn follow(args: &Args, channel: control::Api) -> Result<Exit, Status> {
    let decision = args.decision.map_or("", |decision| match decision {
        Which::Allow => "allow",
        Which::Deny => "deny",
    });
    let request = FollowRequest {
        principal: args.principal.clone().unwrap_or_default(),
        action: args.action.clone().unwrap_or_default(),
        decision: decision.to_owned(),
        records: args.output == Output::Json,
    };
    let mut stream = TailServiceClient::new(channel).follow(request).await?.into_inner();
    let coloured = io::stdout().is_terminal();
    while let Some(message) = stream.message().await? {
        let text = match (message.event, args.output) {
            (Some(Event::Decided(FollowedDecision { record, .. })), Output::Json) => record,
            (Some(Event::Decided(FollowedDecision { decision, .. })), Output::Line) => {
                line(&decision.unwrap_or_default(), coloured)
            }
            (Some(Event::Missed(count)), Output::Json) => json!({ "missed": count }).to_string(),
            (Some(Event::Missed(count)), Output::Line) => {
                mention(format_args!("… {count} decisions missed: they came too fast to be shown"));
                continue;
            }
            (None, _) => continue,
        };
        match writeln!(io::stdout().lock(), "{text}") {
            Ok(()) => {}
            // Whoever read has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Done),
            Err(_) => return Ok(Exit::Failed),
        }
    }
    complain("the doorward has stopped");
    Ok(Exit::Failed)
}

fn line(decision: &Decision, coloured: bool) -> String {
    let Decision { id, at, decision: said, enforced, reason, policy_reason, principal, action, tier, .. } = decision;
    let at = at.as_ref().and_then(|at| DateTime::from_timestamp(at.seconds, u32::try_from(at.nanos).ok()?));
    let at = at.map_or_else(|| "-".to_owned(), |at| at.format("%H:%M:%S%.3f").to_string());
    let (colour, dim, end) = match (coloured, said.as_str(), enforced) {
        (false, ..) => ("", "", ""),
        (true, "allow", _) => ("\x1b[32m", "\x1b[2m", "\x1b[0m"),
        (true, _, true) => ("\x1b[31m", "\x1b[2m", "\x1b[0m"),
        (true, _, false) => ("\x1b[33m", "\x1b[2m", "\x1b[0m"),
    };
    let said = if *enforced || said == "allow" { inert(said).into_owned() } else { format!("{} (let through)", inert(said)) };
    let (tier, principal, action, reason) = (or_dash(tier), or_dash(principal), or_dash(action), inert(reason));
    let says = if policy_reason.is_empty() { String::new() } else { format!(": {}", inert(policy_reason)) };
    format!("{dim}{at}{end} {colour}{said:5}{end} {tier:8} {principal}  {action}  {colour}{reason}{end}{says}  {dim}{id}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_one_line() {
        let at = Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 5_000_000 });
        let decision = Decision {
            id: "i".to_owned(),
            at,
            decision: "deny".to_owned(),
            enforced: true,
            reason: "policy".to_owned(),
            policy_reason: "no\nmore".to_owned(),
            principal: "p".to_owned(),
            ..Decision::default()
        };
        assert_eq!(line(&decision, false), "08:00:00.005 deny  -        p  -  policy: no\\nmore  i");
        let coloured = line(&Decision { enforced: false, ..decision }, true);
        assert!(coloured.contains("\x1b[33mdeny (let through)\x1b[0m"), "{coloured}");
    }
}
