//! What doorward's own metrics say of a run: whether it shed records under load, which would make a decision look
//! cheaper, and why it denied what it should have allowed.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const RECORDS: &str = "doorward_records_total{kind=\"decision\"";
const DECISIONS: &str = "doorward_decisions_total{";

/// Decision records since the server started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) written: u64,
    /// Dropped, or failed to be written.
    pub(crate) lost: u64,
}

impl Ledger {
    pub(crate) async fn read(operations: SocketAddr) -> anyhow::Result<Self> {
        let text = metrics(operations).await?;
        let ledger = Self {
            written: sum(&text, RECORDS, "result=\"written\""),
            lost: sum(&text, RECORDS, "result=\"dropped\"") + sum(&text, RECORDS, "result=\"failed\""),
        };
        if ledger.written == 0 {
            bail!("doorward's metrics count no record as written, and a run without records measures too little");
        }
        Ok(ledger)
    }
}

/// What a reader of the figures should know of a run: records that were lost, and denials that the policy did not ask for.
pub(crate) async fn remarks(operations: SocketAddr, run: &str) -> anyhow::Result<Vec<String>> {
    let Ledger { written, lost } = Ledger::read(operations).await?;
    let refusals = refusals(operations).await;
    let lost = (lost > 0).then(|| format!("With {run}, doorward lost {lost} of {} records.", written + lost));
    let refused = format!("With {run}, doorward denied calls for want of time or room: {refusals}.");
    Ok(lost.into_iter().chain((!refusals.is_empty()).then_some(refused)).collect())
}

/// Denials that the policy did not ask for, `policy_timeout 3, overloaded 1`; empty when there are none, or no metrics.
pub(crate) async fn refusals(operations: SocketAddr) -> String {
    let text = metrics(operations).await.unwrap_or_default();
    let denials = text.lines().filter(|line| line.starts_with(DECISIONS) && line.contains("decision=\"deny\""));
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for line in denials {
        let reason = line.split_once("reason=\"").and_then(|(_, rest)| rest.split_once('"')).map_or("", |(reason, _)| reason);
        // Until the policy was in force, we asked in order to see whether it was.
        if !matches!(reason, "policy" | "no_policy") {
            *counts.entry(reason).or_default() += value(line);
        }
    }
    let texts: Vec<String> = counts.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    texts.join(", ")
}

/// Asks `/metrics` of the operations listener.
async fn metrics(operations: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(operations).await.context("connect to the operations listener")?;
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {operations}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.context("ask for metrics")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.context("read metrics")?;
    Ok(text)
}

/// The sum of a counter over its label sets that have `label`.
fn sum(text: &str, counter: &str, label: &str) -> u64 {
    text.lines().filter(|line| line.starts_with(counter) && line.contains(label)).map(value).sum()
}

fn value(line: &str) -> u64 {
    line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).map_or(0, |value| value as u64)
}
