//! The figures as they are printed: tables in Markdown, or rows in JSON.

use std::fmt::Write as _;

use anyhow::Context;
use serde::Serialize;

/// What was measured of one server under one load. The JSON form is for scripts, so its keys stay.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// `floor` or `doorward`.
    pub(crate) server: &'static str,
    /// The policy; of a floor, that of the doorward it took turns with.
    pub(crate) policy: &'static str,
    /// `uds` or `envoy`.
    pub(crate) transport: &'static str,
    pub(crate) in_flight: usize,
    /// CPU time of the server for one Check, in microseconds.
    pub(crate) cpu_us_per_check: f64,
    /// Answers a second.
    pub(crate) rps: f64,
    /// Latency as the client sees it, in microseconds.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Resident memory of the server, in MiB.
    pub(crate) rss_mb: f64,
}

/// Latency through Envoy at a fixed rate.
#[derive(Debug, Clone)]
pub(crate) struct Paced {
    /// `none`, `floor` or `doorward`.
    pub(crate) server: &'static str,
    pub(crate) policy: &'static str,
    pub(crate) rate: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// How much later than without any filter.
    pub(crate) added_p99_us: f64,
}

/// Two doorwards that differ in one thing. The JSON form is for scripts, so its keys stay.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Compared {
    pub(crate) comparison: &'static str,
    pub(crate) in_flight: usize,
    /// CPU time for one Check, in microseconds: of the floor, and of the two.
    pub(crate) floor_us: f64,
    pub(crate) first_us: f64,
    pub(crate) second_us: f64,
    /// How much more the second takes, as a part of the floor, and how many times the first.
    pub(crate) added_of_floor: f64,
    pub(crate) times: f64,
    /// Resident memory of the two, in MiB.
    pub(crate) first_rss_mb: f64,
    pub(crate) second_rss_mb: f64,
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) compared: Vec<Compared>,
    pub(crate) rows: Vec<Row>,
    pub(crate) paced: Vec<Paced>,
    /// Remarks for the reader, a sentence each.
    pub(crate) notes: Vec<String>,
}

impl Report {
    pub(crate) fn json(&self) -> anyhow::Result<String> {
        let mut text = match self.compared.as_slice() {
            [] => serde_json::to_string_pretty(&self.rows),
            compared => serde_json::to_string_pretty(compared),
        }
        .context("write JSON")?;
        text.push('\n');
        Ok(text)
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = if self.compared.is_empty() { self.servers() } else { self.comparisons() };
        for note in &self.notes {
            // Writing into a string cannot fail, here and below.
            let _ = writeln!(text, "\n{note}");
        }
        text
    }

    fn comparisons(&self) -> String {
        let mut text = "| what differs | in flight | floor µs | first µs | second µs | added × floor | × first | RSS MiB |\n\
            |---|--:|--:|--:|--:|--:|--:|--:|\n"
            .to_owned();
        for row in &self.compared {
            let _ = writeln!(
                text,
                "| {} | {} | {:.1} | {:.1} | {:.1} | {:.2} | {:.2} | {:.0} → {:.0} |",
                row.comparison,
                row.in_flight,
                row.floor_us,
                row.first_us,
                row.second_us,
                row.added_of_floor,
                row.times,
                row.first_rss_mb,
                row.second_rss_mb
            );
        }
        text
    }

    fn servers(&self) -> String {
        let mut text =
            "| policy | transport | in flight | server | CPU µs/Check | × floor | Checks/s | p50 µs | p99 µs | RSS MiB |\n\
            |---|---|--:|---|--:|--:|--:|--:|--:|--:|\n"
                .to_owned();
        for row in &self.rows {
            let ratio = self.floor_of(row).map_or_else(String::new, |floor| format!("{:.2}", row.cpu_us_per_check / floor));
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {:.1} | {ratio} | {:.0} | {:.0} | {:.0} | {:.1} |",
                row.policy,
                row.transport,
                row.in_flight,
                row.server,
                row.cpu_us_per_check,
                row.rps,
                row.p50_us,
                row.p99_us,
                row.rss_mb
            );
        }
        if !self.paced.is_empty() {
            text.push_str("\nThrough Envoy at half of the rate doorward reached there:\n\n");
            text.push_str("| policy | calls/s | ext_authz | p50 µs | p99 µs | added p99 µs |\n|---|--:|---|--:|--:|--:|\n");
        }
        for row in &self.paced {
            let _ = writeln!(
                text,
                "| {} | {:.0} | {} | {:.0} | {:.0} | {:.0} |",
                row.policy, row.rate, row.server, row.p50_us, row.p99_us, row.added_p99_us
            );
        }
        text
    }

    /// CPU of the floor that took turns with `row`; none for a floor.
    fn floor_of(&self, row: &Row) -> Option<f64> {
        let same = |other: &&Row| {
            other.server == "floor"
                && row.server != "floor"
                && (other.policy, other.transport, other.in_flight) == (row.policy, row.transport, row.in_flight)
        };
        self.rows.iter().find(same).map(|floor| floor.cpu_us_per_check)
    }
}
