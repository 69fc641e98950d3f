//! Who may evaluate now: as many permits as evaluators, and a bounded queue for the rest. While another principal
//! waits, one principal holds at most half of the permits and half of the queue, never fewer than one, so that nobody
//! can starve the others. What is refused here is answered at once by the authorizer.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use crate::verdict::Reason;

/// The permits and their queue.
#[derive(Debug)]
pub struct Permits {
    state: Mutex<State>,
    hasher: RandomState,
    permits: usize,
    queue: usize,
}

/// The right to evaluate; given back on drop.
#[derive(Debug)]
pub struct Permit {
    permits: Arc<Permits>,
    principal: u64,
}

#[derive(Debug, Default)]
struct State {
    free: usize,
    held: HashMap<u64, usize>,
    waiting: VecDeque<Waiter>,
    waiting_by: HashMap<u64, usize>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    principal: u64,
    /// Sent when a permit is this waiter's; dropped unsent when it is pushed out of the queue.
    granted: oneshot::Sender<()>,
}

impl Permits {
    /// How many wait for one.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// `permits` evaluations at a time and `queue` waiting, both at least one.
    pub fn new(permits: usize, queue: usize) -> Self {
        let (permits, queue) = (permits.max(1), queue.max(1));
        Self { state: Mutex::new(State { free: permits, ..State::default() }), hasher: RandomState::new(), permits, queue }
    }

    /// Waits for a permit until `deadline`. Callers without a principal share one.
    ///
    /// # Errors
    /// `Overloaded` at once when the queue is full for this principal; `DeadlineExceeded`.
    pub async fn acquire(self: &Arc<Self>, principal: Option<&str>, deadline: Instant) -> Result<Permit, Reason> {
        let principal = self.hasher.hash_one(principal);
        let mut place = match self.enter(principal)? {
            Entered::Now(permit) => return Ok(permit),
            Entered::Waits(place) => place,
        };
        match timeout_at(deadline, &mut place.granted).await {
            Ok(Ok(())) => Ok(place.claim()),
            Ok(Err(_)) => Err(Reason::Overloaded),
            Err(_) => Err(Reason::DeadlineExceeded),
        }
    }

    fn enter(self: &Arc<Self>, principal: u64) -> Result<Entered, Reason> {
        let mut state = self.lock();
        if state.free > 0 && (state.waiting.is_empty() || state.held_by(principal) < half(self.permits)) {
            state.free -= 1;
            *state.held.entry(principal).or_default() += 1;
            return Ok(Entered::Now(Permit { permits: Arc::clone(self), principal }));
        }
        state.make_room(principal, self.queue)?;
        let (granted, receiver) = oneshot::channel();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push_back(Waiter { ticket, principal, granted });
        *state.waiting_by.entry(principal).or_default() += 1;
        // A permit may lie idle because everyone before was at their half.
        state.hand_out(self.permits);
        Ok(Entered::Waits(Place { permits: Arc::clone(self), principal, ticket, granted: receiver, claimed: false }))
    }

    fn release(&self, principal: u64) {
        let mut state = self.lock();
        state.give_back(principal);
        state.hand_out(self.permits);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can panic half-way through a change, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.release(self.principal);
    }
}

enum Entered {
    Now(Permit),
    Waits(Place),
}

/// A place in the queue; left on drop, also when the caller goes away.
struct Place {
    permits: Arc<Permits>,
    principal: u64,
    ticket: u64,
    granted: oneshot::Receiver<()>,
    claimed: bool,
}

impl Place {
    fn claim(mut self) -> Permit {
        self.claimed = true;
        Permit { permits: Arc::clone(&self.permits), principal: self.principal }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.claimed {
            return;
        }
        let mut state = self.permits.lock();
        if let Some(at) = state.waiting.iter().position(|waiter| waiter.ticket == self.ticket) {
            state.leave(at);
        } else if self.granted.try_recv().is_ok() {
            // Granted in the moment the caller gave up.
            state.give_back(self.principal);
        }
        state.hand_out(self.permits.permits);
    }
}

impl State {
    fn held_by(&self, principal: u64) -> usize {
        self.held.get(&principal).copied().unwrap_or_default()
    }

    fn give_back(&mut self, principal: u64) {
        self.free += 1;
        decrement(&mut self.held, principal);
    }

    /// Makes sure that `principal` may wait: refuses it, or pushes out the newest waiter of whoever fills the queue.
    fn make_room(&mut self, principal: u64, queue: usize) -> Result<(), Reason> {
        let own = self.waiting_by.get(&principal).copied().unwrap_or_default();
        let others_wait = self.waiting.len() > own;
        if others_wait && own >= half(queue) {
            return Err(Reason::Overloaded);
        }
        if self.waiting.len() < queue {
            return Ok(());
        }
        let crowd = self.waiting_by.iter().max_by_key(|(_, count)| **count).map(|(crowd, count)| (*crowd, *count));
        match crowd {
            Some((crowd, count)) if crowd != principal && count > half(queue) => {
                if let Some(at) = self.waiting.iter().rposition(|waiter| waiter.principal == crowd) {
                    self.leave(at);
                }
                Ok(())
            }
            _ => Err(Reason::Overloaded),
        }
    }

    fn leave(&mut self, at: usize) -> Option<Waiter> {
        let waiter = self.waiting.remove(at)?;
        decrement(&mut self.waiting_by, waiter.principal);
        Some(waiter)
    }

    /// Gives free permits to waiters, first come first served among those below their half.
    fn hand_out(&mut self, permits: usize) {
        while self.free > 0 {
            let alone = self.waiting_by.len() <= 1;
            let next = self.waiting.iter().position(|waiter| alone || self.held_by(waiter.principal) < half(permits));
            let Some(waiter) = next.and_then(|at| self.leave(at)) else { return };
            if waiter.granted.send(()).is_ok() {
                self.free -= 1;
                *self.held.entry(waiter.principal).or_default() += 1;
            }
        }
    }
}

fn half(count: usize) -> usize {
    (count / 2).max(1)
}

fn decrement(counts: &mut HashMap<u64, usize>, key: u64) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::Pin, time::Duration};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    type Waiting = Pin<Box<dyn Future<Output = Result<Permit, Reason>> + Send>>;

    /// Starts waiting: polled once, so it stands in the queue.
    async fn wait(permits: &Arc<Permits>, principal: &'static str) -> Waiting {
        let permits = Arc::clone(permits);
        let mut waiting: Waiting = Box::pin(async move { permits.acquire(Some(principal), soon()).await });
        assert!(futures_util::poll!(&mut waiting).is_pending(), "{principal} should wait");
        waiting
    }

    #[tokio::test]
    async fn one_principal_may_use_everything_while_nobody_else_waits() {
        let permits = Arc::new(Permits::new(4, 4));
        let held: Vec<_> = futures_util::future::join_all((0..4).map(|_| permits.acquire(Some("a"), soon()))).await;
        assert!(held.iter().all(Result::is_ok));
    }

    #[tokio::test]
    async fn a_waiting_principal_gets_the_next_permit_before_the_one_at_its_half() {
        let permits = Arc::new(Permits::new(2, 8));
        let (first, second) =
            (permits.acquire(Some("a"), soon()).await.unwrap(), permits.acquire(Some("a"), soon()).await.unwrap());
        let mut crowd = wait(&permits, "a").await;
        let other = wait(&permits, "b").await;
        drop(first);
        let held = other.await.unwrap();
        assert!(futures_util::poll!(&mut crowd).is_pending());
        drop(second);
        crowd.await.unwrap();
        drop(held);
        assert_eq!(permits.lock().waiting.len(), 0);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_makes_room_for_another_principal() {
        let permits = Arc::new(Permits::new(1, 4));
        let held = permits.acquire(Some("a"), soon()).await.unwrap();
        let mut crowd = Vec::new();
        for _ in 0..4 {
            crowd.push(wait(&permits, "a").await);
        }
        assert_eq!(permits.acquire(Some("a"), soon()).await.unwrap_err(), Reason::Overloaded);
        let other = wait(&permits, "b").await;
        assert_eq!(crowd.pop().unwrap().await.unwrap_err(), Reason::Overloaded, "the newest of the crowd is pushed out");
        assert_eq!(permits.acquire(Some("a"), soon()).await.unwrap_err(), Reason::Overloaded, "half of the queue is theirs");
        drop(held);
        let served = crowd.remove(0).await.unwrap();
        drop((served, crowd));
        other.await.unwrap();
    }

    #[tokio::test]
    async fn whoever_gives_up_leaves_no_trace() {
        let permits = Arc::new(Permits::new(1, 2));
        let held = permits.acquire(None, soon()).await.unwrap();
        drop(wait(&permits, "a").await);
        assert_eq!(permits.lock().waiting.len(), 0);
        let late = permits.acquire(Some("a"), Instant::now() + Duration::from_millis(5)).await;
        assert_eq!(late.unwrap_err(), Reason::DeadlineExceeded);
        let granted_and_gone = wait(&permits, "b").await;
        drop(held);
        drop(granted_and_gone);
        permits.acquire(Some("c"), soon()).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn permits_are_never_exceeded_under_a_storm() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let permits = Arc::new(Permits::new(3, 64));
        let (inside, served) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let storm = (0..500).map(|n| {
            let (permits, inside, served) = (Arc::clone(&permits), Arc::clone(&inside), Arc::clone(&served));
            tokio::spawn(async move {
                let name = ["a", "b", "c"][n % 3];
                if let Ok(permit) = permits.acquire(Some(name), Instant::now() + Duration::from_millis(200)).await {
                    assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    served.fetch_add(1, Ordering::SeqCst);
                    drop(permit);
                }
            })
        });
        for task in futures_util::future::join_all(storm).await {
            task.unwrap();
        }
        assert!(served.load(Ordering::SeqCst) > 0);
        let state = permits.lock();
        assert_eq!((state.free, state.waiting.len(), state.held.len(), state.waiting_by.len()), (3, 0, 0, 0));
    }
}
