//! Two doorwards that differ in one thing, and the floor, in turns: what that thing costs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use crate::{
    client::Client,
    control,
    drive::Answers,
    ledger,
    mesh::Mesh,
    plan::{self, Binaries, Extent, Figures, Load, Target},
    policy::Policy,
    report::{Compared, Report},
    server::{Server, free_address},
    token::{self, Signer},
    traffic::{self, CALLER, CROWD, Call, Crowd, STRANGER, TRUST_DOMAIN},
};

/// What the two differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Comparison {
    /// The caller named by Envoy and a token that is not looked at; both verified, and seen before.
    Credentials,
    /// The ten rules alone; the same with catalogue, registry, session and risk.
    Documents,
    /// 10 entries in the catalogue, and 10,000.
    Entries,
    /// 100 workloads in the registry, and 100,000.
    Workloads,
    /// 1,000 sessions that live, and 1,000,000.
    Sessions,
    /// Nothing revoked or granted; 100,000 revocations and 100,000 grants.
    Control,
    /// Calls; the same as streams that Envoy has held, each for a moment.
    Streams,
}

/// How many there are of what makes a decision slow where it is not looked up well.
#[derive(Debug, Clone, Copy)]
struct Size {
    entries: usize,
    workloads: usize,
    sessions: usize,
    /// Revocations, and grants; none without our own API, which keeps decisions in memory.
    control: Option<usize>,
}

const SMALL: Size = Size { entries: 10, workloads: 100, sessions: 0, control: None };
/// Calls of different callers that are measured, at most: each is kept encoded.
const CALLERS: usize = 20_000;
/// In flight while sessions are begun.
const FILLING: usize = 64;

/// One of the two.
struct Side {
    policy: Policy,
    /// None without documents.
    size: Option<Size>,
    /// Whether each call becomes a stream.
    streams: bool,
}

impl Comparison {
    const fn name(self) -> &'static str {
        match self {
            Self::Credentials => "certificate and token",
            Self::Documents => "catalogue, registry, session, risk",
            Self::Entries => "10 → 10,000 actions",
            Self::Workloads => "100 → 100,000 workloads",
            Self::Sessions => "1,000 → 1,000,000 sessions",
            Self::Control => "100,000 revocations and grants",
            Self::Streams => "each call a stream that is held",
        }
    }

    fn sides(self) -> [Side; 2] {
        let with = |size| Side { policy: Policy::Rbac10, size: Some(size), streams: false };
        match self {
            Self::Credentials => [
                Side { policy: Policy::Named, size: None, streams: false },
                Side { policy: Policy::Token, size: None, streams: false },
            ],
            Self::Documents => [Side { policy: Policy::Rbac10, size: None, streams: false }, with(SMALL)],
            Self::Entries => [with(SMALL), with(Size { entries: 10_000, ..SMALL })],
            Self::Workloads => [with(SMALL), with(Size { workloads: 100_000, ..SMALL })],
            Self::Sessions => {
                let of = |sessions| Side { policy: Policy::Named, size: Some(Size { sessions, ..SMALL }), streams: false };
                [of(1_000), of(1_000_000)]
            }
            Self::Streams => [false, true].map(|streams| Side { policy: Policy::Rbac10, size: None, streams }),
            Self::Control => [0, 100_000].map(|count| with(Size { control: Some(count), ..SMALL })),
        }
    }
}

pub(crate) async fn run(binaries: &Binaries, comparisons: &[Comparison], extent: &Extent) -> anyhow::Result<Report> {
    let folder = tempfile::Builder::new().prefix("doorward-bench-").tempdir().context("make a folder")?;
    let mesh = Mesh::new(TRUST_DOMAIN)?;
    mesh.write_bundle(&folder.path().join("bundle.pem"))?;
    let signer = Signer::new()?;
    signer.write_keys(&folder.path().join("keys.json"))?;
    let mut report = Report::default();
    for comparison in comparisons {
        compare(binaries, *comparison, folder.path(), &mesh, &signer, extent, &mut report).await?;
    }
    Ok(report)
}

async fn compare(
    binaries: &Binaries,
    comparison: Comparison,
    folder: &Path,
    mesh: &Mesh,
    signer: &Signer,
    extent: &Extent,
    report: &mut Report,
) -> anyhow::Result<()> {
    let floor_socket = folder.join(format!("floor-{comparison:?}.sock"));
    let mut floor = Server::start(
        Command::new(&binaries.floor).arg("--socket").arg(&floor_socket),
        &folder.join(format!("floor-{comparison:?}.log")),
    )?;
    let mut running = Vec::new();
    for (place, side) in comparison.sides().into_iter().enumerate() {
        let own = folder.join(format!("{comparison:?}-{place}"));
        running.push(Running::start(binaries, &side, &own, mesh, signer).await?);
    }
    let [first, second] = running.as_slice() else { return Ok(()) };
    plan::ready(&mut floor, first.calls, async || Client::to_socket(&floor_socket).await).await?;
    for in_flight in extent.in_flight {
        let targets = [
            (
                Target {
                    name: "floor",
                    answers: Answers::AllowAll,
                    client: Client::to_socket(&floor_socket).await?,
                    server: Some(&floor),
                },
                first.calls,
            ),
            (first.target().await?, first.calls),
            (second.target().await?, second.calls),
        ];
        let mut seen: [Vec<Figures>; 3] = Default::default();
        for _ in 0..extent.rounds {
            for ((target, calls), seen) in targets.iter().zip(&mut seen) {
                seen.push(plan::round(target, calls, Load::InFlight(*in_flight), extent).await?);
            }
        }
        // Each round is held against its own floor: what drifts from round to round is not what is asked.
        let [floors, ones, others] = &seen;
        let added = floors.iter().zip(ones).zip(others).map(|((floor, one), other)| (other.cpu_us - one.cpu_us) / floor.cpu_us);
        let mut added: Vec<f64> = added.collect();
        added.sort_unstable_by(f64::total_cmp);
        let added_of_floor = added.get(added.len() / 2).copied().unwrap_or(f64::NAN);
        let [floor, one, other] = seen.map(|rounds| plan::median(&rounds));
        report.compared.push(Compared {
            comparison: comparison.name(),
            in_flight: *in_flight,
            floor_us: floor.cpu_us,
            first_us: one.cpu_us,
            second_us: other.cpu_us,
            added_of_floor,
            times: other.cpu_us / one.cpu_us,
            first_rss_mb: one.rss_mb,
            second_rss_mb: other.rss_mb,
        });
    }
    for side in [first, second] {
        report.notes.extend(ledger::remarks(side.operations, comparison.name()).await?);
    }
    Ok(())
}

/// A doorward under test.
struct Running {
    server: Server,
    socket: PathBuf,
    operations: std::net::SocketAddr,
    calls: &'static [Call],
}

impl Running {
    async fn start(binaries: &Binaries, side: &Side, own: &Path, mesh: &Mesh, signer: &Signer) -> anyhow::Result<Self> {
        side.policy.write(&own.join("policy"))?;
        fs::create_dir(own.join("records")).context("make a folder for records")?;
        let (mut listener, mut top) = (String::new(), String::new());
        if let Some(size) = side.size {
            let documents = json!({"doorward": {"actions": actions(size.entries), "workloads": workloads(size.workloads), "tiers": {"default": "standard"}}});
            fs::write(own.join("policy/data.json"), documents.to_string()).context("write the documents")?;
            // A rule more would be counted as what the documents cost.
            if size.sessions > 0 {
                fs::write(own.join("policy/crowd.rego"), crowd_rule()).context("write the rule for the crowd")?;
            }
            if size.control.is_some() {
                top.push_str(&token::people(&own.join("control.sock")));
            }
            listener.push_str("  placement: gateway\n");
            // Labels are kept in memory, so that no file is measured.
            top.push_str("sessions: {sole: true, incomplete: allow, max: 2000000}\n");
        }
        let (socket, operations) = (own.join("doorward.sock"), free_address()?);
        let config = own.join("doorward.yaml");
        let text = plan::configuration(side.policy, &socket, operations, &listener) + &top;
        fs::write(&config, text).context("write doorward's configuration")?;
        let mut server =
            Server::start(Command::new(&binaries.doorward).arg("serve").arg("--config").arg(&config), &own.join("doorward.log"))?;
        let caller = mesh.issue(CALLER, None)?;
        let sessions = side.size.map_or(0, |size| size.sessions);
        let crowd = Crowd::new(&caller)?;
        // Tasks of all rounds read them, until the process ends.
        let calls: &'static [Call] = match sessions {
            0 => {
                let calls = traffic::calls(mesh, &caller, signer, side.policy.tokens())?.into_iter();
                calls.map(|call| if side.streams { call.of_stream() } else { call }).collect::<Vec<_>>().leak()
            }
            _ => (0..CALLERS).map(|number| crowd.call(number * sessions / CALLERS)).collect::<Vec<_>>().leak(),
        };
        let client = plan::ready(&mut server, calls, async || Client::to_socket(&socket).await).await?;
        fill(&client, crowd, sessions)
            .await
            .with_context(|| format!("{sessions} sessions; it said last:\n{}", server.last_words()))?;
        if let Some(control) = side.size.and_then(|size| size.control).filter(|count| *count > 0) {
            control::fill(&own.join("control.sock"), signer, control)
                .await
                .with_context(|| format!("{control} revocations and grants; it said last:\n{}", server.last_words()))?;
        }
        Ok(Self { server, socket, operations, calls })
    }

    async fn target(&self) -> anyhow::Result<Target<'_>> {
        let client = Client::to_socket(&self.socket).await?;
        Ok(Target { name: "doorward", answers: Answers::Policy, client, server: Some(&self.server) })
    }
}

/// One call by each of so many callers.
async fn fill(client: &Client, crowd: Crowd, sessions: usize) -> anyhow::Result<()> {
    let crowd: &'static Crowd = Box::leak(Box::new(crowd));
    let mut workers = JoinSet::new();
    for worker in 0..FILLING {
        let mut client = client.clone();
        workers.spawn(async move {
            for number in (worker..sessions).step_by(FILLING) {
                let call = crowd.call(number);
                // Who finds it busy asks again.
                while !client.ask(&call).await? {
                    tokio::task::yield_now().await;
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.context("a worker ended early")??;
    }
    Ok(())
}

/// So many actions; the traffic's are the first, and mark the session.
fn actions(count: usize) -> Value {
    let entry = |path: String, method: &str, more: Value| {
        let mut entry = json!({"match": [{"path": path, "methods": [method]}], "class": "read", "sensitivity": "low"});
        if let (Some(entry), Value::Object(more)) = (entry.as_object_mut(), more) {
            entry.extend(more);
        }
        entry
    };
    let own = [
        (
            "orders.read",
            entry(
                "/api/v1/orders/{order}/lines/*".to_owned(),
                "GET",
                json!({"adds": ["data:order"], "resource": {"type": "order", "id": {"param": "order"}}}),
            ),
        ),
        (
            "orders.write",
            entry(
                "/api/v1/orders/{order}/lines/*".to_owned(),
                "POST",
                json!({"class": "write", "forbid_after": ["data:payment"]}),
            ),
        ),
        ("orders.dump", entry("/internal/orders/*/dump".to_owned(), "GET", json!({"sensitivity": "high"}))),
    ];
    let rest = (own.len()..count)
        .map(|number| (format!("area{number}.read"), entry(format!("/api/v1/area-{number}/*/items/*"), "GET", json!({}))));
    own.into_iter().map(|(name, entry)| (name.to_owned(), entry)).chain(rest).collect::<Map<_, _>>().into()
}

/// So many workloads, one in ten of them a pattern; the traffic's are among them.
fn workloads(count: usize) -> Value {
    let entry = json!({"owner": "shop", "purpose": "sells", "allows": [{"actions": ["orders.*"]}]});
    let own = [CALLER.to_owned(), STRANGER.to_owned(), format!("{CROWD}*").replace("caller-*", "*")];
    let rest = (own.len()..count).map(|number| match number % 10 {
        0 => format!("spiffe://{TRUST_DOMAIN}/ns/team-{number}/**"),
        _ => format!("spiffe://{TRUST_DOMAIN}/ns/team-{:02}/sa/service-{number:06}", number % 40),
    });
    own.iter().cloned().chain(rest).map(|id| (id, entry.clone())).collect::<Map<_, _>>().into()
}

/// The crowd may do what the traffic asks for.
fn crowd_rule() -> String {
    format!("package envoy.authz\n\nimport rego.v1\n\nallow if startswith(input.peer.spiffe_id, \"{CROWD}\")\n")
}
