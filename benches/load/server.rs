//! The servers under test as child processes: started, watched through the kernel's own counters, and ended.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill},
    time::{ClockId, clock_getcpuclockid},
    unistd::Pid,
};

/// A process, killed when this is dropped.
pub(crate) struct Server {
    child: Child,
    clock: ClockId,
    log: PathBuf,
}

impl Server {
    /// Runs `command` with its output in `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let output = File::create(log).with_context(|| format!("make `{}`", log.display()))?;
        let errors = output.try_clone().context("share the log")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        let clock = clock_getcpuclockid(Pid::from_raw(child.id().cast_signed())).context("find the clock of a process")?;
        Ok(Self { child, clock, log: log.to_owned() })
    }

    /// CPU time of all its threads since it started, also of those that ended.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        Ok(self.clock.now().context("read the clock of a process")?.into())
    }

    /// As `cpu`, once it has nothing left to do: what it put off until after the answer is part of the price.
    pub(crate) async fn cpu_at_rest(&self) -> anyhow::Result<Duration> {
        let deadline = Instant::now() + Duration::from_secs(3);
        let mut before = self.cpu()?;
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let now = self.cpu()?;
            if now - before < Duration::from_micros(400) || Instant::now() >= deadline {
                return Ok(now);
            }
            before = now;
        }
    }

    /// Resident memory in MiB.
    pub(crate) fn resident_mib(&self) -> anyhow::Result<f64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).with_context(|| format!("read `{path}`"))?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        Ok(kib.context("a process without resident memory")? / 1024.0)
    }

    /// An error with the end of its log if it is not running.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait().context("look after a process")? {
            bail!("it ended with {status}:\n{}", self.last_words());
        }
        Ok(())
    }

    /// The last lines of its log.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already; there is nothing to do about either failure.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// An address whose port was free a moment ago, for servers that do not tell which one they chose.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    listener.local_addr().context("find a free port")
}
