//! `doorward status`: how a running doorward is.

use tonic::Status;

use super::{
    Exit, Output,
    control::{self, inert, or_dash, print_json},
    print,
};
use crate::control::proto::{
    to_json,
    v1::{GetStatusRequest, GetStatusResponse, status_service_client::StatusServiceClient},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Whether it is ready is in the answer; `doorward health` tells it by its exit code.

Examples:
  doorward status
  doorward status --output json | jq .alarms

Exit codes: 0 done, 1 failed, 2 not allowed to ask, 3 invalid")]
pub(super) struct Args {
    /// How to print it
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    control: control::Args,
}

pub(super) fn run(args: &Args) -> Exit {
    args.control.run(async |channel| status(args, channel).await)
}

async fn status(args: &Args, channel: control::Api) -> Result<Exit, Status> {
    let answer = StatusServiceClient::new(channel).get(GetStatusRequest {}).await?.into_inner();
    Ok(match args.output {
        Output::Json => print_json(to_json(&answer)),
        Output::Table => print(table(&answer)),
    })
}

fn table(status: &GetStatusResponse) -> String {
    let GetStatusResponse { instance, version, mode, ready, obstacle, policy_revision, policy_digest, log, rev, .. } = status;
    let GetStatusResponse { durable, revocations, sessions, principals, streams, records_waiting, identities, alarms, .. } =
        status;
    let GetStatusResponse { identities_forgotten, identities_refused, .. } = status;
    let kept = if *durable { "" } else { ", which a restart forgets" };
    let digest: String = policy_digest.chars().take(12).collect();
    let mut lines = vec![
        ("instance", format!("{instance}, version {version}")),
        ("mode", mode.clone()),
        ("ready", if *ready { "yes".to_owned() } else { format!("no: {obstacle}") }),
        ("policy", if policy_digest.is_empty() { String::new() } else { format!("{policy_revision}, digest {digest}") }),
        ("log", if log.is_empty() { String::new() } else { format!("{log}, rev {rev}") }),
        ("revoked", format!("{revocations}{kept}")),
        ("sessions", format!("{sessions} of {principals} principals")),
        ("streams", streams.to_string()),
        ("waiting", format!("{records_waiting} records")),
        ("identities", identities.to_string()),
    ];
    if *identities_forgotten + *identities_refused > 0 {
        lines.push((
            "no room",
            format!("for {identities_forgotten} identities, which were forgotten, and in {identities_refused} decisions"),
        ));
    }
    let alarm = |about: &str, text: &str| format!("\nalarm: {}: {}", inert(about), inert(text));
    let lines = lines.iter().map(|(name, value)| format!("{name:<12}{}", or_dash(value))).collect::<Vec<_>>().join("\n");
    alarms.iter().fold(lines, |all, found| all + &alarm(&found.about, &found.text))
}
