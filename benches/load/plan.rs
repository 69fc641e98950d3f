//! What is measured, in which order: both servers run at once and take turns, so that what the machine does besides
//! falls on both; of the rounds the median counts.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::{
    client::Client,
    drive::{self, Answers},
    envoy::{self, Route},
    ledger,
    mesh::{Mesh, Svid},
    policy::Policy,
    report::{Paced, Report, Row},
    server::{Server, free_address},
    token::{self, Signer},
    traffic::{self, CALLED, CALLER, Call, TRUST_DOMAIN},
};

/// In flight through Envoy.
const THROUGH_ENVOY: usize = 8;
/// How long a server may take to answer its first Check.
const READY: Duration = Duration::from_secs(20);

pub(crate) struct Binaries {
    pub(crate) doorward: PathBuf,
    pub(crate) floor: PathBuf,
    pub(crate) envoy: Option<PathBuf>,
}

/// How much is measured.
pub(crate) struct Extent {
    pub(crate) policies: &'static [Policy],
    pub(crate) in_flight: &'static [usize],
    pub(crate) rounds: usize,
    warm_up: Duration,
    round: Duration,
}

impl Extent {
    pub(crate) const fn whole() -> Self {
        Self {
            policies: &token::EVERY,
            in_flight: &[1, 8, 64],
            rounds: 3,
            warm_up: Duration::from_millis(300),
            round: Duration::from_millis(2_000),
        }
    }

    pub(crate) const fn quick() -> Self {
        Self {
            policies: &[Policy::Rbac10],
            in_flight: &[8],
            rounds: 1,
            warm_up: Duration::from_millis(200),
            round: Duration::from_millis(800),
        }
    }
}

pub(crate) async fn run(binaries: &Binaries, policies: &[Policy], extent: &Extent) -> anyhow::Result<Report> {
    let folder = tempfile::Builder::new().prefix("doorward-bench-").tempdir().context("make a folder")?;
    let mesh = Mesh::new(TRUST_DOMAIN)?;
    mesh.write_bundle(&folder.path().join("bundle.pem"))?;
    let caller = mesh.issue(CALLER, None)?;
    let signer = Signer::new()?;
    signer.write_keys(&folder.path().join("keys.json"))?;
    let mut report = Report::default();
    for policy in policies {
        // Tasks of all rounds read them, until the process ends.
        let calls: &'static [Call] = traffic::calls(&mesh, &caller, &signer, policy.tokens())?.leak();
        let stage = Stage::start(binaries, *policy, folder.path(), calls, extent).await?;
        stage.over_sockets(&mut report).await?;
        if let Some(binary) = binaries.envoy.as_ref().filter(|_| policy.tokens() == 0) {
            stage.through_envoy(binary, &mesh, &caller, &mut report).await?;
        }
        report.notes.extend(ledger::remarks(stage.operations, policy.name()).await?);
    }
    Ok(report)
}

/// Both servers, with one policy.
struct Stage<'a> {
    policy: Policy,
    /// Of the run; the trust bundle is in it.
    folder: &'a Path,
    calls: &'static [Call],
    extent: &'a Extent,
    floor: Server,
    floor_socket: PathBuf,
    doorward: Server,
    doorward_socket: PathBuf,
    operations: SocketAddr,
}

/// One that takes turns.
pub(crate) struct Target<'a> {
    pub(crate) name: &'static str,
    pub(crate) answers: Answers,
    pub(crate) client: Client,
    /// None where no authorizer is asked.
    pub(crate) server: Option<&'a Server>,
}

#[derive(Clone, Copy)]
pub(crate) enum Load {
    InFlight(usize),
    PerSecond(f64),
}

/// What one round, or the median of several, came to.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) cpu_us: f64,
    rps: f64,
    p50_us: f64,
    p99_us: f64,
    pub(crate) rss_mb: f64,
}

impl<'a> Stage<'a> {
    async fn start(
        binaries: &Binaries,
        policy: Policy,
        folder: &'a Path,
        calls: &'static [Call],
        extent: &'a Extent,
    ) -> anyhow::Result<Self> {
        let own = folder.join(policy.name());
        policy.write(&own.join("policy"))?;
        let (floor_socket, doorward_socket) = (own.join("floor.sock"), own.join("doorward.sock"));
        // Not beside the configuration, whose folder doorward watches for changes.
        fs::create_dir(own.join("records")).context("make a folder for records")?;
        let operations = free_address()?;
        let config = own.join("doorward.yaml");
        fs::write(&config, configuration(policy, &doorward_socket, operations, "")).context("write doorward's configuration")?;
        let mut floor = Server::start(Command::new(&binaries.floor).arg("--socket").arg(&floor_socket), &own.join("floor.log"))?;
        let mut doorward =
            Server::start(Command::new(&binaries.doorward).arg("serve").arg("--config").arg(&config), &own.join("doorward.log"))?;
        ready(&mut floor, calls, async || Client::to_socket(&floor_socket).await).await.context("the floor does not answer")?;
        ready(&mut doorward, calls, async || Client::to_socket(&doorward_socket).await)
            .await
            .with_context(|| format!("doorward with {} does not answer", policy.name()))?;
        Ok(Self { policy, folder, calls, extent, floor, floor_socket, doorward, doorward_socket, operations })
    }

    async fn over_sockets(&self, report: &mut Report) -> anyhow::Result<()> {
        let targets = [
            self.floor(Client::to_socket(&self.floor_socket).await?),
            self.doorward(Client::to_socket(&self.doorward_socket).await?),
        ];
        for in_flight in self.extent.in_flight {
            let figures = self.take_turns(&targets, Load::InFlight(*in_flight)).await?;
            report.rows.extend(self.rows(&targets, &figures, "uds", *in_flight));
        }
        Ok(())
    }

    async fn through_envoy(&self, binary: &Path, mesh: &Mesh, caller: &Svid, report: &mut Report) -> anyhow::Result<()> {
        let folder = self.folder.join(self.policy.name());
        let called = mesh.issue(CALLED, Some(IpAddr::from(Ipv4Addr::LOCALHOST)))?;
        let routes = [
            Route { name: "floor", authorizer: Some(&self.floor_socket) },
            Route { name: "doorward", authorizer: Some(&self.doorward_socket) },
            Route { name: "none", authorizer: None },
        ];
        let (mut envoy, addresses) = envoy::start(binary, &folder, &called, &self.folder.join("bundle.pem"), &routes)?;
        let mut clients = Vec::new();
        for address in addresses {
            let connect = async || Client::to_envoy(address, mesh, caller).await;
            clients.push(ready(&mut envoy, self.calls, connect).await.context("Envoy does not answer")?);
        }
        let Ok([floor, doorward, none]) = <[Client; 3]>::try_from(clients) else { bail!("Envoy has three listeners") };
        let none = Target { name: "none", answers: Answers::AllowAll, client: none, server: None };
        let [floor, doorward] = [self.floor(floor), self.doorward(doorward)];

        let authorizers = [floor, doorward];
        let figures = self.take_turns(&authorizers, Load::InFlight(THROUGH_ENVOY)).await?;
        report.rows.extend(self.rows(&authorizers, &figures, "envoy", THROUGH_ENVOY));
        let Some(reached) = figures.last() else { return Ok(()) };

        let rate = reached.rps / 2.0;
        let targets: Vec<Target<'_>> = std::iter::once(none).chain(authorizers).collect();
        let figures = self.take_turns(&targets, Load::PerSecond(rate)).await?;
        let without = figures.first().map_or(0.0, |none| none.p99_us);
        report.paced.extend(targets.iter().zip(&figures).map(|(target, figures)| Paced {
            server: target.name,
            policy: self.policy.name(),
            rate,
            p50_us: figures.p50_us,
            p99_us: figures.p99_us,
            added_p99_us: figures.p99_us - without,
        }));
        Ok(())
    }

    fn floor(&self, client: Client) -> Target<'_> {
        Target { name: "floor", answers: Answers::AllowAll, client, server: Some(&self.floor) }
    }

    fn doorward(&self, client: Client) -> Target<'_> {
        Target { name: "doorward", answers: Answers::Policy, client, server: Some(&self.doorward) }
    }

    fn rows(&self, targets: &[Target<'_>], figures: &[Figures], transport: &'static str, in_flight: usize) -> Vec<Row> {
        let row = |(target, figures): (&Target<'_>, &Figures)| Row {
            server: target.name,
            policy: self.policy.name(),
            transport,
            in_flight,
            cpu_us_per_check: figures.cpu_us,
            rps: figures.rps,
            p50_us: figures.p50_us,
            p99_us: figures.p99_us,
            rss_mb: figures.rss_mb,
        };
        targets.iter().zip(figures).map(row).collect()
    }

    /// The median figures of each target, in their order.
    async fn take_turns(&self, targets: &[Target<'_>], load: Load) -> anyhow::Result<Vec<Figures>> {
        let mut seen: Vec<Vec<Figures>> = targets.iter().map(|_| Vec::new()).collect();
        for _ in 0..self.extent.rounds {
            for (target, seen) in targets.iter().zip(&mut seen) {
                match round(target, self.calls, load, self.extent).await {
                    Ok(figures) => seen.push(figures),
                    Err(error) => return Err(self.explain(target, error).await),
                }
            }
        }
        Ok(seen.iter().map(|rounds| median(rounds)).collect())
    }

    /// What there is to know about a round that failed.
    async fn explain(&self, target: &Target<'_>, error: anyhow::Error) -> anyhow::Error {
        let said = target.server.map(Server::last_words).unwrap_or_default();
        let refusals = match target.answers {
            Answers::Policy => ledger::refusals(self.operations).await,
            Answers::AllowAll => String::new(),
        };
        anyhow::anyhow!("{} with {}: {error:#} ({refusals}); it said last:\n{said}", target.name, self.policy.name())
    }
}

/// One round: the load without looking, then the load that counts.
pub(crate) async fn round(target: &Target<'_>, calls: &'static [Call], load: Load, extent: &Extent) -> anyhow::Result<Figures> {
    let Target { answers, client, server, .. } = target;
    let drive = async |span| match load {
        Load::InFlight(count) => drive::full(client, calls, *answers, count, span).await,
        Load::PerSecond(rate) => drive::paced(client, calls, *answers, rate, span).await,
    };
    drive(extent.warm_up).await?;
    let before = match server {
        Some(server) => server.cpu_at_rest().await?,
        None => Duration::ZERO,
    };
    let sample = drive(extent.round).await?;
    let (after, rss_mb) = match server {
        Some(server) => (server.cpu_at_rest().await?, server.resident_mib()?),
        None => (Duration::ZERO, 0.0),
    };
    let micros = |quantile| tenths(sample.latency.value_at_quantile(quantile) as f64 / 1e3);
    Ok(Figures {
        cpu_us: tenths((after - before).as_secs_f64() * 1e6 / sample.count as f64),
        rps: tenths(sample.count as f64 / sample.elapsed.as_secs_f64()),
        p50_us: micros(0.5),
        p99_us: micros(0.99),
        rss_mb: tenths(rss_mb),
    })
}

/// A connection on which a call that must be allowed is allowed.
pub(crate) async fn ready(
    server: &mut Server,
    calls: &[Call],
    connect: impl AsyncFn() -> anyhow::Result<Client>,
) -> anyhow::Result<Client> {
    let call = calls.iter().find(|call| call.allowed).context("no call is allowed")?;
    let deadline = Instant::now() + READY;
    loop {
        server.check()?;
        let why = match connect().await {
            Ok(mut client) => match client.ask(call).await {
                Ok(true) => return Ok(client),
                Ok(false) => "it denies what must be allowed".to_owned(),
                Err(error) => format!("{error:#}"),
            },
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= deadline {
            bail!("{why}; it said last:\n{}", server.last_words());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Identity is proved by the chain, and each decision leaves a record: what a mesh would run.
pub(crate) fn configuration(policy: Policy, socket: &Path, operations: SocketAddr, listener: &str) -> String {
    format!(
        "version: 1\n\
         listeners:\n- address: unix://{}\n{listener}{}\
         trust: {{domains: {{{TRUST_DOMAIN}: {{bundle: ../bundle.pem}}}}}}\n\
         policy: {{bundles: [{{path: policy}}]}}\n\
         records: {{sink: {{file: {{path: records/decisions.jsonl, keep: 1}}}}}}\n\
         operations: {{address: '{operations}'}}\n",
        socket.display(),
        policy.identity()
    )
}

/// The median of each figure for itself.
pub(crate) fn median(rounds: &[Figures]) -> Figures {
    let of = |figure: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Figures {
        cpu_us: of(|round| round.cpu_us),
        rps: of(|round| round.rps),
        p50_us: of(|round| round.p50_us),
        p99_us: of(|round| round.p99_us),
        rss_mb: of(|round| round.rss_mb),
    }
}

/// To one decimal: more would be noise.
fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
