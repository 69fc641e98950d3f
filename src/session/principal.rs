//! What is kept of one principal. Times are nanoseconds since the Unix epoch, actions and labels are names of the
//! catalogue.

use std::{collections::VecDeque, hash::BuildHasher as _, sync::Arc, time::Duration};

use foldhash::quality::FixedState;

use super::{
    Bounds, Count, Key, Listed, Noted, Part, Past, Source, View, Who, nanos,
    tally::{DAY, Tally},
};
use crate::{
    action::Adds,
    clock::Now,
    verdict::{Class, Decision, Reason, SignalName},
};

/// Actions of a path.
const PATH: usize = 32;
/// Sessions, labels and counted actions of one principal.
pub(super) const SESSIONS: usize = 1000;
const LABELS: usize = 256;
const COUNTED: usize = 1024;
/// Intents whose outcome is awaited, for one label. What comes beyond stands whatever becomes of it: that only denies.
const PENDING: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Principal {
    pub(super) sessions: Vec<Session>,
    pub(super) own: Behaviour,
    noted: Vec<Noted>,
    denials: u32,
    /// Calls since `window_began`.
    calls: u32,
    window_began: u64,
    /// Whether something did not find room that was done without.
    pub(super) overflowed: bool,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) key: Key,
    pub(super) began: u64,
    pub(super) last: u64,
    pub(super) ended: bool,
    pub(super) own: Behaviour,
    /// Fingerprints of environment, zone and issuer; 0 where there was none.
    context: [u64; 3],
}

/// Labels, counts and path.
#[derive(Debug, Default)]
pub(super) struct Behaviour {
    pub(super) labels: Vec<Label>,
    /// In the order of the action's number.
    pub(super) counts: Vec<(u32, Tally)>,
    path: VecDeque<Step>,
    /// Number of the next entry of the path.
    pub(super) next: u64,
}

/// An entry of a path, 24 bytes.
#[derive(Debug, Clone, Copy)]
struct Step {
    at: u64,
    resource_hash: u64,
    action: u32,
    class: Class,
    decision: Option<Decision>,
}

#[derive(Debug)]
pub(super) struct Label {
    pub(super) name: Arc<str>,
    /// When it ends, by what has been allowed; 0 where nothing has.
    pub(super) until: u64,
    /// Numbers of intents that add it and are not decided yet, and until when.
    pending: Vec<(u64, u64)>,
    /// Until when the file knows it.
    pub(super) written: u64,
}

impl Label {
    pub(super) fn end(&self) -> u64 {
        self.pending.iter().map(|(_, until)| *until).fold(self.until, u64::max)
    }
}

impl Behaviour {
    fn live(&self, now: u64) -> impl Iterator<Item = &Arc<str>> {
        self.labels.iter().filter(move |label| label.end() > now).map(|label| &label.name)
    }

    /// Adds a label for good, or as part of intent `n`. False where there is no room.
    pub(super) fn add(&mut self, name: &Arc<str>, until: u64, n: Option<u64>, now: u64) -> bool {
        let at = match self.labels.iter().position(|label| label.name == *name) {
            Some(at) => at,
            None => {
                if self.labels.len() >= LABELS {
                    self.labels.retain(|label| label.end() > now);
                }
                if self.labels.len() >= LABELS {
                    return false;
                }
                self.labels.push(Label { name: Arc::clone(name), until: 0, pending: Vec::new(), written: 0 });
                self.labels.len() - 1
            }
        };
        let Some(label) = self.labels.get_mut(at) else { return false };
        match n {
            Some(n) if label.pending.len() < PENDING => label.pending.push((n, until)),
            Some(_) | None => label.until = label.until.max(until),
        }
        true
    }

    fn count(&mut self, action: u32, now: u64) -> bool {
        match self.counts.binary_search_by_key(&action, |(action, _)| *action) {
            Ok(at) => {
                if let Some((_, tally)) = self.counts.get_mut(at) {
                    tally.add(&Tally::once(now));
                }
                true
            }
            Err(at) if self.counts.len() < COUNTED => {
                self.counts.insert(at, (action, Tally::once(now)));
                true
            }
            Err(_) => false,
        }
    }

    fn append(&mut self, action: u32, class: Class, resource_hash: u64, now: u64) -> u64 {
        if self.path.len() >= PATH {
            self.path.pop_front();
        }
        self.path.push_back(Step { at: now, resource_hash, action, class, decision: None });
        self.next += 1;
        self.next - 1
    }

    fn decide(&mut self, n: u64, action: u32, decision: Decision, now: u64) {
        let back = usize::try_from(self.next.saturating_sub(n)).unwrap_or(usize::MAX);
        if let Some(step) = self.path.len().checked_sub(back).and_then(|at| self.path.get_mut(at)) {
            step.decision = Some(decision);
        }
        for label in &mut self.labels {
            let Some(at) = label.pending.iter().position(|(intent, _)| *intent == n) else { continue };
            let (_, until) = label.pending.swap_remove(at);
            if decision == Decision::Allow {
                label.until = label.until.max(until);
            }
        }
        if decision == Decision::Deny {
            self.labels.retain(|label| label.end() > now);
            if let Ok(at) = self.counts.binary_search_by_key(&action, |(action, _)| *action)
                && let Some((_, tally)) = self.counts.get_mut(at)
            {
                tally.take_back();
                if tally.is_empty() {
                    self.counts.remove(at);
                }
            }
        }
    }

    fn part(&self, names: &[Arc<str>], now: u64) -> Part {
        let name = |number: u32| usize::try_from(number).ok().and_then(|number| names.get(number)).cloned().unwrap_or_default();
        let mut labels: Vec<Arc<str>> = self.live(now).cloned().collect();
        labels.sort_unstable();
        let current = self.counts.iter().filter_map(|(number, tally)| Some((name(*number), tally.at(now)?)));
        let mut counts: Vec<(Arc<str>, Count)> = current.collect();
        counts.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let first = self.next - self.path.len() as u64;
        let path = self.path.iter().zip(first..).map(|(step, n)| Past {
            n,
            action: name(step.action),
            class: step.class,
            resource_hash: step.resource_hash,
            at: Now { ns: step.at },
            decision: step.decision,
        });
        Part { labels, counts, path: path.collect() }
    }

    fn sweep(&mut self, now: u64) {
        self.labels.retain(|label| label.end() > now);
        self.counts.retain(|(_, tally)| !tally.is_over(now));
    }
}

impl Session {
    pub(super) fn new(id: u64, key: Key, began: u64) -> Self {
        Self { id, key, began, last: began, ended: false, own: Behaviour::default(), context: [0; 3] }
    }

    pub(super) fn is_over(&self, bounds: &Bounds, now: u64) -> bool {
        let idle = !self.ended && self.last.saturating_add(nanos(bounds.idle)) < now;
        idle || self.began.saturating_add(nanos(bounds.absolute)) < now
    }

    pub(super) fn listed(&self, principal: &Arc<str>, of_principal: &Behaviour, now: u64) -> Listed {
        let mut labels: Vec<Arc<str>> = self.own.live(now).chain(of_principal.live(now)).cloned().collect();
        labels.sort_unstable();
        labels.dedup();
        Listed {
            id: self.id,
            principal: Arc::clone(principal),
            key: self.key.clone(),
            began: Now { ns: self.began },
            last: Now { ns: self.last },
            seq: self.own.next,
            ended: self.ended,
            labels,
        }
    }
}

/// What one step did, to be undone or confirmed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    pub(super) session: u64,
    pub(super) n: u64,
    pub(super) n_in_session: u64,
    pub(super) action: u32,
}

/// One step, with names that are numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doing<'a> {
    pub(super) action: u32,
    pub(super) adds: &'a [Adds],
    pub(super) class: Class,
    pub(super) resource_hash: u64,
    /// Whether a path-relevant action must find room.
    pub(super) relevant: bool,
}

impl Principal {
    /// The session of this key, begun anew where the old one is over.
    pub(super) fn session(&mut self, key: &Key, id: u64, bounds: &Bounds, now: u64) -> &mut Session {
        let at = match self.sessions.iter().position(|session| session.id == id && session.key == *key) {
            Some(at) => at,
            None => {
                if self.sessions.len() >= SESSIONS {
                    self.evict();
                }
                self.sessions.push(Session::new(id, key.clone(), now));
                self.sessions.len() - 1
            }
        };
        // The index was found or made just now.
        #[expect(clippy::indexing_slicing, reason = "found or pushed just above")]
        let session = &mut self.sessions[at];
        if session.is_over(bounds, now) {
            *session = Session::new(id, key.clone(), now);
        }
        session
    }

    /// Forgets the session that was used least lately; its labels and counts stay at the principal. One that was ended is
    /// the last to go, as it stands for a refusal.
    pub(super) fn evict(&mut self) {
        let oldest = self.sessions.iter().enumerate().min_by_key(|(_, session)| (session.ended, session.last));
        if let Some((at, _)) = oldest {
            self.sessions.swap_remove(at);
        }
    }

    /// Ends a session; false where there is none. An ambient one only goes.
    pub(super) fn end(&mut self, key: &Key, id: u64, now: u64) -> bool {
        let Some(at) = self.sessions.iter().position(|session| session.id == id && session.key == *key) else { return false };
        if key.source == Source::Ambient {
            self.sessions.swap_remove(at);
        } else if let Some(session) = self.sessions.get_mut(at) {
            (session.ended, session.began) = (true, now);
        }
        true
    }

    pub(super) fn look(&self, who: &Who<'_>, action: Option<u32>, window: Duration, now: u64) -> super::Glance {
        let counted = |action: u32| self.own.counts.binary_search_by_key(&action, |(action, _)| *action).is_ok();
        let session = self.sessions.iter().find(|session| session.id == who.id && session.key == *who.key);
        let changed = session.map_or_else(Vec::new, |session| {
            let names = [SignalName::EnvironmentChanged, SignalName::ZoneChanged, SignalName::IssuerChanged];
            let pairs = session.context.iter().zip(context(who));
            names.into_iter().zip(pairs).filter(|(_, (then, now))| **then != 0 && **then != *now).map(|(name, _)| name).collect()
        });
        let running = self.window_began.saturating_add(nanos(window)) >= now;
        super::Glance {
            first_use: !self.own.counts.is_empty() && action.is_some_and(|action| !counted(action)),
            denials: self.denials,
            calls: if running { self.calls } else { 0 },
            changed,
            noted: self.noted.clone(),
        }
    }

    pub(super) fn called(&mut self, window: Duration, now: u64) {
        if self.window_began.saturating_add(nanos(window)) < now {
            (self.window_began, self.calls) = (now, 0);
        }
        self.calls = self.calls.saturating_add(1);
    }

    /// Labels that live before the step, then the step. What must find room and does not is refused, and leaves nothing.
    pub(super) fn step(
        &mut self,
        who: &Who<'_>,
        doing: Doing<'_>,
        bounds: &Bounds,
        now: u64,
    ) -> Result<(Vec<Arc<str>>, Marks), Reason> {
        let session = self.session(who.key, who.id, bounds, now);
        if session.ended {
            return Err(Reason::SessionEnded);
        }
        session.last = session.last.max(now);
        if session.own.next == 0 {
            session.context = context(who);
        }
        let vouched = session.key.source.is_vouched();
        let n_in_session = session.own.append(doing.action, doing.class, doing.resource_hash, now);
        let mut room = doing.action == 0 || session.own.count(doing.action, now);
        let mut labels: Vec<Arc<str>> = session.own.live(now).cloned().collect();
        let in_session = |adds: &&Adds| adds.for_session && vouched;
        for adds in doing.adds.iter().filter(in_session) {
            room &= session.own.add(&adds.label, now.saturating_add(nanos(adds.ttl)), Some(n_in_session), now);
        }
        labels.extend(self.own.live(now).cloned());
        let n = self.own.append(doing.action, doing.class, doing.resource_hash, now);
        room &= doing.action == 0 || self.own.count(doing.action, now);
        for adds in doing.adds.iter().filter(|adds| !in_session(adds)) {
            room &= self.own.add(&adds.label, now.saturating_add(nanos(adds.ttl)), Some(n), now);
        }
        let marks = Marks { session: who.id, n, n_in_session, action: doing.action };
        if !room && doing.relevant {
            self.outcome(marks, Decision::Deny, now);
            return Err(Reason::SessionLimit);
        }
        self.overflowed |= !room;
        Ok((labels, marks))
    }

    pub(super) fn outcome(&mut self, marks: Marks, decision: Decision, now: u64) {
        let Marks { session, n, n_in_session, action } = marks;
        if let Some(session) = self.sessions.iter_mut().find(|found| found.id == session) {
            session.own.decide(n_in_session, action, decision, now);
        }
        self.own.decide(n, action, decision, now);
        match decision {
            Decision::Allow => self.denials = 0,
            Decision::Deny => self.denied(),
        }
    }

    pub(super) fn denied(&mut self) {
        self.denials = self.denials.saturating_add(1);
    }

    pub(super) fn note(&mut self, name: SignalName, now: u64) {
        let now = Now { ns: now };
        match self.noted.iter_mut().find(|(noted, ..)| *noted == name) {
            Some((_, _, last)) => *last = (*last).max(now),
            None => self.noted.push((name, now, now)),
        }
    }

    /// Whether anything is left of it.
    pub(super) fn sweep(&mut self, bounds: &Bounds, now: u64) -> bool {
        self.sessions.retain(|session| !session.is_over(bounds, now));
        self.sessions.iter_mut().for_each(|session| session.own.sweep(now));
        self.own.sweep(now);
        self.noted.retain(|(_, _, last)| last.ns.saturating_add(DAY) >= now);
        !(self.sessions.is_empty() && self.own.labels.is_empty() && self.own.counts.is_empty() && self.noted.is_empty())
    }

    /// What policy sees before the call with these marks.
    pub(super) fn view(&self, id: u64, names: &[Arc<str>], now: u64) -> View {
        let session = self.sessions.iter().find(|session| session.id == id);
        View {
            id: format!("{id:016x}"),
            source: session.map_or(Source::Ambient, |session| session.key.source).as_str(),
            age_s: session.map_or(0, |session| now.saturating_sub(session.began) / 1_000_000_000),
            seq: session.map_or(0, |session| session.own.next),
            complete: false,
            session: session.map(|session| session.own.part(names, now)).unwrap_or_default(),
            principal: self.own.part(names, now),
        }
    }
}

/// Fingerprints of where and by whose word a caller is, only compared with each other. 0 stands for nothing.
fn context(who: &Who<'_>) -> [u64; 3] {
    let of = |text: Option<&str>| text.map_or(0, |text| FixedState::with_seed(0).hash_one(text).max(1));
    [of(who.environment), of(who.zone), of(who.issuer)]
}
