//! Whether this process may be asked: it has a policy in force, knows whom to trust and the keys of those whose
//! tokens it takes, its listeners are bound and it is not draining. The
//! operations listener tells probes, the Envoy listeners tell Envoy's health checks.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// What readiness depends on.
#[derive(Debug, Clone, Copy, Default)]
struct Conditions {
    listening: bool,
    policy: bool,
    keys_missing: bool,
    /// Bundles or our own SVID are awaited from the Workload API, or have been withdrawn.
    no_trust: bool,
    draining: bool,
}

/// The shared answer; cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness {
    conditions: Arc<Mutex<Conditions>>,
    ready: watch::Sender<bool>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { conditions: Arc::default(), ready: watch::Sender::new(false) }
    }
}

impl Readiness {
    /// Every listener is bound.
    pub fn listening(&self) {
        self.change(|conditions| conditions.listening = true);
    }

    /// Whether a policy is in force.
    pub fn policy(&self, in_force: bool) {
        self.change(|conditions| conditions.policy = in_force);
    }

    /// Whether the keys of every token issuer are there that we may not do without.
    pub fn keys(&self, there: bool) {
        self.change(|conditions| conditions.keys_missing = !there);
    }

    /// Whether what the Workload API is needed for is there.
    pub fn trust(&self, there: bool) {
        self.change(|conditions| conditions.no_trust = !there);
    }

    /// From now on never ready again.
    pub fn draining(&self) {
        self.change(|conditions| conditions.draining = true);
    }

    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Why not, as the word probes are shown; none when ready.
    pub fn obstacle(&self) -> Option<&'static str> {
        obstacle(*self.conditions.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The answer now and whenever it changes.
    pub fn follow(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut Conditions)) {
        let mut conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut conditions);
        let ready = obstacle(*conditions).is_none();
        self.ready.send_if_modified(|told| std::mem::replace(told, ready) != ready);
    }
}

fn obstacle(conditions: Conditions) -> Option<&'static str> {
    match conditions {
        Conditions { draining: true, .. } => Some("draining"),
        Conditions { listening: false, .. } => Some("starting"),
        Conditions { policy: false, .. } => Some("no_policy"),
        Conditions { keys_missing: true, .. } => Some("no_keys"),
        Conditions { no_trust: true, .. } => Some("no_trust"),
        Conditions { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_between_the_first_policy_and_draining() {
        let readiness = Readiness::default();
        assert_eq!(readiness.obstacle(), Some("starting"));
        readiness.listening();
        assert_eq!(readiness.obstacle(), Some("no_policy"));
        readiness.policy(true);
        assert!(readiness.is_ready());
        readiness.keys(false);
        assert_eq!(readiness.obstacle(), Some("no_keys"));
        readiness.keys(true);
        readiness.trust(false);
        assert_eq!((readiness.is_ready(), readiness.obstacle()), (false, Some("no_trust")));
        readiness.trust(true);
        assert!(readiness.is_ready());
        readiness.draining();
        assert_eq!((readiness.is_ready(), readiness.obstacle()), (false, Some("draining")));
    }
}
