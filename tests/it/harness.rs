//! What the tests stand on: a certificate authority, the real binary, a real Envoy, an upstream and clients. Every
//! listener takes port 0 or a socket in a temporary folder; nothing waits by the clock, only on a condition.

pub mod alertmanager;
pub mod ca;
pub mod check;
pub mod client;
pub mod control;
pub mod doorward;
pub mod envoy;
pub mod issuer;
pub mod oidc_provider;
pub mod openbao;
pub mod program;
pub mod toxiproxy;
pub mod upstream;
pub mod workload_api;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Longest wait for something that should happen at once; a loaded machine may need it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` gives a value.
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The same for a condition that has to wait itself.
pub async fn eventually_async<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A program in the wheels that `tests/peers.sh` installs, `relative` to their folder. None, with a loud word, when it
/// is absent and may be.
pub fn peer(name: &str, relative: &str) -> Option<PathBuf> {
    let libraries = Path::new(env!("CARGO_MANIFEST_DIR")).join(".peers/venv/lib");
    let pythons = std::fs::read_dir(libraries).into_iter().flatten().flatten();
    let found = pythons.map(|python| python.path().join("site-packages").join(relative)).find(|path| path.exists());
    found.or_else(|| absent(name))
}

/// The same for what is no wheel, `relative` to the folder of all peers.
pub fn peer_at(name: &str, relative: &str) -> Option<PathBuf> {
    let peers = std::env::var_os("PEERS_DIR").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".peers"), PathBuf::from);
    Some(peers.join(relative)).filter(|path| path.exists()).or_else(|| absent(name))
}

/// The same for a Debian package: a command on the path.
pub fn command(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.exists());
    found.or_else(|| absent(name))
}

fn absent(name: &str) -> Option<PathBuf> {
    assert!(std::env::var_os("REQUIRE_PEERS").is_none(), "{name} is not installed: run `bash tests/peers.sh all`");
    eprintln!("SKIPPED: {name} is not installed; run `bash tests/peers.sh all`");
    None
}

/// The real opa; none, with a loud word, when it is absent and may be.
pub fn opa() -> Option<PathBuf> {
    peer_at("opa", "bin/opa")
}
