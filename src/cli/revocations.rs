//! `doorward revocations`: what is revoked.

use comfy_table::{Table, presets::NOTHING};
use tonic::Status;

use super::{
    Exit, Output,
    control::{self, inert, print_json, time},
    print,
};
use crate::{
    control::proto::{
        to_json,
        v1::{ListRevocationsRequest, ListRevocationsResponse, Revocation, revocation_service_client::RevocationServiceClient},
    },
    revocation::Selector,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// The revocations that count, in the order in which they were made
    List(List),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  doorward revocations list
  doorward revocations list --spiffe-id spiffe://example.org/ns/shop/sa/agent
  doorward revocations list --kind owner --output json | jq -r .revocations[].id

Exit codes: 0 done, 1 failed, 2 not allowed to ask, 3 invalid")]
pub(super) struct List {
    /// Only of this kind
    #[arg(long, value_name = "KIND", value_parser = clap::builder::PossibleValuesParser::new(Selector::KINDS))]
    kind: Option<String>,
    /// Only those that this workload falls under
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<String>,
    /// Most revocations to list
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    limit: usize,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    control: control::Args,
}

pub(super) fn run(command: &Command) -> Exit {
    let Command::List(args) = command;
    args.control.run(async |channel| list(args, channel).await)
}

async fn list(args: &List, channel: control::Api) -> Result<Exit, Status> {
    let mut client = RevocationServiceClient::new(channel);
    let pages = control::pages(args.limit, async |page_size, page_token| {
        let request = ListRevocationsRequest {
            page_size,
            page_token,
            kind: args.kind.clone().unwrap_or_default(),
            spiffe_id: args.spiffe_id.clone().unwrap_or_default(),
        };
        let page = client.list(request).await?.into_inner();
        Ok((page.revocations, page.next_page_token))
    });
    let (revocations, _) = pages.await?;
    Ok(match args.output {
        Output::Json => print_json(to_json(&ListRevocationsResponse { revocations, next_page_token: String::new() })),
        Output::Table => print(table(&revocations)),
    })
}

fn table(revocations: &[Revocation]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["id", "what", "issued before (UTC)", "since", "until", "by", "why"]);
    for revocation in revocations {
        let Revocation { id, rev: _, selector, issued_before, reason, author, at, expires_at, request_id: _ } = revocation;
        let selector = selector.clone().and_then(|selector| Selector::try_from(selector.what?).ok());
        let what = selector.map_or_else(|| "-".to_owned(), |selector| selector.to_string());
        table.add_row([
            inert(id).into_owned(),
            inert(&what).into_owned(),
            time(issued_before.as_ref(), "%F %H:%M:%S"),
            time(at.as_ref(), "%F %H:%M"),
            time(expires_at.as_ref(), "%F %H:%M"),
            inert(author).into_owned(),
            inert(reason).into_owned(),
        ]);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}
