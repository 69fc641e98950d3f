//! `doorward session`: what callers did, one after the other, and the end of it.

use std::io::IsTerminal as _;

use comfy_table::{Table, presets::NOTHING};
use tonic::Status;

use super::{
    Exit, Output,
    control::{self, inert, or_dash, print_json, time},
    print,
};
use crate::control::proto::{
    to_json,
    v1::{
        Behaviour, EndSessionRequest, ListSessionsRequest, ListSessionsResponse, Session, ShowSessionRequest,
        ShowSessionResponse, session_service_client::SessionServiceClient,
    },
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// The sessions that live, in the order of their ids
    List(List),
    /// One session: labels, counts and path, its own and those of its principal
    Show(Show),
    /// End a session: what comes in it is refused from then on
    End(End),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  doorward session list
  doorward session list --label data:customer --principal 'spiffe://example.org/ns/agents/*'
  doorward session list --output json | jq -r .sessions[].id

Exit codes: 0 done, 1 failed, 2 not allowed to ask, 3 invalid")]
pub(super) struct List {
    /// Only this principal's, or of all that begin so (`spiffe://example.org/*`)
    #[arg(long, value_name = "PRINCIPAL")]
    principal: Option<String>,
    /// Only those with this label, their own or their principal's
    #[arg(long, value_name = "LABEL")]
    label: Option<String>,
    /// Only those told apart by this
    #[arg(long, value_name = "SOURCE", value_parser = ["txn", "run", "certificate", "ambient"])]
    source: Option<String>,
    /// Most sessions to list
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    limit: usize,
    #[command(flatten)]
    common: control::Common,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  doorward session show 5f3a0c9b2d4e6f81
  doorward session show 5f3a0c9b2d4e6f81 --output json | jq .principal.labels

Exit codes: 0 done, 1 failed, or there is no such session, 2 not allowed to ask, 3 invalid")]
pub(super) struct Show {
    /// Id of the session: in `doorward session list`, and in the records of its decisions
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    common: control::Common,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A session of source `ambient` is all that its principal does without one: it begins anew with the
next call, and only what it alone had is gone. Labels and counts of the principal stay in any case.

Example:
  doorward session end 5f3a0c9b2d4e6f81 --reason 'case 4711'

Exit codes: 0 ended, 1 failed, or there is no such session, 2 not allowed to end it, 3 invalid")]
pub(super) struct End {
    /// Id of the session
    #[arg(value_name = "ID")]
    id: String,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    common: control::Common,
}

pub(super) fn run(command: &Command) -> Exit {
    match command {
        Command::List(args) => args.common.control.run(async |channel| list(args, channel).await),
        Command::Show(args) => args.common.control.run(async |channel| show(args, channel).await),
        Command::End(args) => args.common.control.run(async |channel| end(args, channel).await),
    }
}

async fn list(args: &List, channel: control::Api) -> Result<Exit, Status> {
    let mut client = SessionServiceClient::new(channel);
    let pages = control::pages(args.limit, async |page_size, page_token| {
        let request = ListSessionsRequest {
            page_size,
            page_token,
            principal: args.principal.clone().unwrap_or_default(),
            label: args.label.clone().unwrap_or_default(),
            source: args.source.clone().unwrap_or_default(),
        };
        let page = client.list(request).await?.into_inner();
        Ok((page.sessions, page.next_page_token))
    });
    let (sessions, _) = pages.await?;
    let listed = ListSessionsResponse { sessions, next_page_token: String::new() };
    Ok(args.common.show(&listed, || table(&listed.sessions)))
}

async fn show(args: &Show, channel: control::Api) -> Result<Exit, Status> {
    let mut client = SessionServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    let shown = client.show(ShowSessionRequest { id: args.id.clone() }).await?.into_inner();
    Ok(args.common.show(&shown, || whole(&shown, std::io::stdout().is_terminal())))
}

async fn end(args: &End, channel: control::Api) -> Result<Exit, Status> {
    let request = EndSessionRequest { id: args.id.clone(), reason: args.reason.clone().unwrap_or_default() };
    let ended = SessionServiceClient::new(channel).end(request).await?.into_inner();
    let session = ended.session.clone().unwrap_or_default();
    Ok(match args.common.output {
        Output::Json => print_json(to_json(&ended)),
        Output::Table if session.source == "ambient" => print(format_args!(
            "forgot what session {} of {} alone had; the next call begins it anew",
            session.id,
            inert(&session.principal)
        )),
        Output::Table => print(format_args!(
            "ended session {} of {}, and {} live streams in it",
            session.id,
            inert(&session.principal),
            ended.streams
        )),
    })
}

fn table(sessions: &[Session]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["id", "principal", "by", "began (UTC)", "last", "actions", "labels"]);
    for session in sessions {
        let Session { id, principal, source, began_at, last_at, actions, ended, labels, key: _ } = session;
        let last = if *ended { "ended".to_owned() } else { time(last_at.as_ref(), "%H:%M:%S") };
        table.add_row([
            inert(id).into_owned(),
            inert(principal).into_owned(),
            inert(source).into_owned(),
            time(began_at.as_ref(), "%F %H:%M:%S"),
            last,
            actions.to_string(),
            or_dash(&labels.join(", ")).into_owned(),
        ]);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn whole(shown: &ShowSessionResponse, coloured: bool) -> String {
    let ShowSessionResponse { session, behaviour, principal } = shown;
    let Session { id, principal: name, source, key, began_at, last_at, actions, ended, labels: _ } =
        session.clone().unwrap_or_default();
    let mut text = format!("{id}  {}", inert(&name));
    let by = if key.is_empty() { source } else { format!("{source} {key}") };
    let last = format!("{}{}", time(last_at.as_ref(), "%F %H:%M:%S"), if ended { ", ended" } else { "" });
    for (name, value) in
        [("by", by), ("began", time(began_at.as_ref(), "%F %H:%M:%S")), ("last", last), ("actions", actions.to_string())]
    {
        text.push_str(&format!("\n{name:<10}{}", inert(&value)));
    }
    for (whose, behaviour) in [("session", behaviour), ("principal", principal)] {
        add(&mut text, whose, &behaviour.clone().unwrap_or_default(), coloured);
    }
    text
}

fn add(text: &mut String, whose: &str, behaviour: &Behaviour, coloured: bool) {
    let Behaviour { labels, counts, path } = behaviour;
    text.push_str(&format!("\n\nlabels of the {whose}: {}", or_dash(&labels.join(", "))));
    for count in counts {
        let last = time(count.last_at.as_ref(), "%H:%M:%S");
        text.push_str(&format!("\n  {:>6} × {}, last {last}", count.count, inert(&count.action)));
    }
    if !path.is_empty() {
        text.push_str(&format!("\npath of the {whose}:"));
    }
    for past in path {
        let at = time(past.at.as_ref(), "%F %H:%M:%S%.3f");
        let (open, close) = match (coloured, past.decision.as_str()) {
            (true, "allow") => ("\x1b[32m", "\x1b[0m"),
            (true, "deny") => ("\x1b[31m", "\x1b[0m"),
            _ => ("", ""),
        };
        let action = if past.action.is_empty() { "(not known)".into() } else { inert(&past.action) };
        let (decision, class) = (or_dash(&past.decision), inert(&past.class));
        text.push_str(&format!("\n  {:>4}  {at}  {open}{decision:5}{close}  {action}  {class}", past.number));
    }
}
