//! The registry of workloads (`data.doorward.workloads`): who owns a machine identity, what it is for, and what it may
//! do, by SPIFFE ID or pattern. How an entry is written is `entry`'s, when one may act `schedule`'s. What a policy makes
//! of it is the policy's.

mod entry;
mod schedule;

use std::{collections::HashMap, sync::Arc};

use foldhash::quality::RandomState;
use serde_json::Value;

pub use self::schedule::Schedule;
use crate::{
    clock::Now,
    identity::{X509, x509},
    json::{Fault, Shown},
    segments::{self, Tree, Width},
    verdict::{Class, Mode, Signal, SignalName},
};

/// One entry of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub owner: Option<Arc<str>>,
    pub team: Option<Arc<str>>,
    pub purpose: Option<Arc<str>>,
    /// Where it may act; absent: everywhere.
    pub environments: Option<Vec<Arc<str>>>,
    pub third_party: bool,
    /// `active` unless the entry says otherwise.
    pub state: Arc<str>,
    /// Seconds since the Unix epoch.
    pub expires_at: Option<i64>,
    pub allows: Vec<Allow>,
    pub schedule: Option<Schedule>,
    pub max_credential_lifetime_s: Option<i64>,
    pub max_credential_age_s: Option<i64>,
    /// Most of each action within a day, by the name of the action.
    pub limits: Vec<(Arc<str>, u64)>,
    /// For people: where to turn to.
    pub escalation: Option<Arc<str>>,
    /// `observe` lifts denials by policy, tier and risk.
    pub mode: Mode,
    /// As records show it.
    pub shown: Shown,
}

/// What a workload may do. Each of the lists that is there has to match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allow {
    /// Names of actions, or globs over them.
    pub actions: Vec<Arc<str>>,
    pub classes: Option<Vec<Class>>,
    /// `type`, or a glob over `type/id`.
    pub resources: Option<Vec<Arc<str>>>,
    pub tenants: Option<Vec<Arc<str>>>,
    pub environments: Option<Vec<Arc<str>>>,
}

impl Workload {
    /// Whether its registration is in force.
    pub fn is_active(&self, now: Now) -> bool {
        self.standing(now) == Standing::Active
    }

    /// Whether its registration is in force, and why not.
    pub fn standing(&self, now: Now) -> Standing {
        match self.expires_at.is_none_or(|end| now.seconds() < end) {
            _ if *self.state != *"active" => Standing::Disabled,
            true => Standing::Active,
            false => Standing::Expired,
        }
    }

    pub fn is_on_schedule(&self, now: Now) -> bool {
        self.schedule.as_ref().is_none_or(|schedule| schedule.holds(now))
    }
}

/// What has become of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Active,
    Expired,
    /// Its state is another than `active`.
    Disabled,
}

/// What the registry makes noticeable about a proved caller; `workload` is its entry, where it has one.
pub fn signals(workload: Option<&Workload>, x509: Option<&X509>, now: Now) -> Vec<Signal> {
    let signal = |name, detail: String| Signal { name, since_ns: now.ns, detail };
    let Some(workload) = workload else {
        return vec![signal(SignalName::Unregistered, "the registry has no entry of it".to_owned())];
    };
    let mut found = Vec::new();
    if workload.owner.as_ref().is_none_or(|owner| owner.is_empty()) {
        found.push(signal(SignalName::Unowned, "its entry names no owner".to_owned()));
    }
    if !workload.is_active(now) {
        let detail = match &*workload.state {
            "active" => "its registration has expired".to_owned(),
            state => format!("its state is {state}"),
        };
        found.push(signal(SignalName::RegistrationEnded, detail));
    }
    if !workload.is_on_schedule(now) {
        found.push(signal(SignalName::OffSchedule, "it is outside of its schedule".to_owned()));
    }
    if let Some(x509) = x509 {
        let (age, lifetime) = (now.seconds().saturating_sub(x509.not_before), x509.not_after.saturating_sub(x509.not_before));
        for (name, most, found_s) in [
            (SignalName::CredentialAge, workload.max_credential_age_s, age),
            (SignalName::CredentialLifetime, workload.max_credential_lifetime_s, lifetime),
        ] {
            if let Some(most) = most.filter(|most| found_s > *most) {
                found.push(signal(name, format!("{found_s} s, and at most {most} s are allowed")));
            }
        }
    }
    found
}

/// All entries, found by SPIFFE ID: its own first, then the narrowest pattern.
#[derive(Debug, Default)]
pub struct Registry {
    exact: HashMap<Arc<str>, Arc<Workload>, RandomState>,
    /// Patterns by trust domain, then segment by segment.
    patterns: Tree<Option<Named>>,
    /// The same, one after the other.
    open: Vec<Named>,
}

/// An entry, and what it is under.
type Named = (Arc<str>, Arc<Workload>);

/// A pattern, taken apart.
struct Pattern<'a> {
    /// The trust domain first, without a `**` at the end.
    segments: Vec<&'a str>,
    closed: bool,
}

impl Registry {
    /// Reads `data.doorward.workloads`: from SPIFFE IDs and patterns to entries.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn compile(document: &Value) -> Result<Self, Vec<Fault>> {
        let Some(entries) = document.as_object() else {
            return Err(vec![Fault { at: Vec::new(), text: "must be an object, from SPIFFE IDs to entries".to_owned() }]);
        };
        let (mut registry, mut faults, mut patterns) = (Self::default(), Vec::new(), Vec::new());
        for (id, entry) in entries {
            let mut refuse = |found: Vec<Fault>| faults.extend(found.into_iter().map(|fault| fault.below(id)));
            let workload = entry::read(entry).map(Arc::new).map_err(&mut refuse).ok();
            match Pattern::parse(id) {
                Err(text) => refuse(vec![Fault { at: Vec::new(), text }]),
                Ok(pattern) => {
                    if let Some(workload) = workload {
                        registry.insert(id, &pattern, workload);
                    }
                    if pattern.is_open() {
                        patterns.push((id.as_str(), pattern));
                    }
                }
            }
        }
        faults.extend(alike(&patterns));
        if faults.is_empty() { Ok(registry) } else { Err(faults) }
    }

    /// The entry of a workload. Takes as long for many entries as for few.
    pub fn find(&self, spiffe_id: &str) -> Option<&Arc<Workload>> {
        self.entry(spiffe_id).map(|(_, workload)| workload)
    }

    /// The same, with the SPIFFE ID or pattern that it is under.
    pub fn entry(&self, spiffe_id: &str) -> Option<(&Arc<str>, &Arc<Workload>)> {
        let narrowest = || {
            let mut best: Option<(Width, &Named)> = None;
            self.patterns.visit(spiffe_id.strip_prefix(SCHEME)?.split('/'), &mut |entry, width| {
                if let Some(entry) = entry
                    && best.is_none_or(|(narrowest, _)| width > narrowest)
                {
                    best = Some((width, entry));
                }
            });
            best.map(|(_, (id, workload))| (id, workload))
        };
        self.exact.get_key_value(spiffe_id).or_else(narrowest)
    }

    /// All entries, in no order, each with what it is under.
    pub fn entries(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Workload>)> {
        self.exact.iter().chain(self.open.iter().map(|(id, workload)| (id, workload)))
    }

    /// Whether nobody is registered.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.open.is_empty()
    }

    fn insert(&mut self, id: &str, pattern: &Pattern<'_>, entry: Arc<Workload>) {
        let named = (Arc::from(id), entry);
        if !pattern.is_open() {
            self.exact.extend([named]);
            return;
        }
        self.open.push(named.clone());
        *self.patterns.place(pattern.literals(), pattern.closed) = Some(named);
    }
}

const SCHEME: &str = "spiffe://";

impl<'a> Pattern<'a> {
    fn parse(id: &'a str) -> Result<Self, String> {
        let not_one = || "is no SPIFFE ID of a workload, such as `spiffe://example.org/ns/shop/sa/web`".to_owned();
        let mut segments: Vec<&str> = id.strip_prefix(SCHEME).ok_or_else(not_one)?.split('/').collect();
        if segments.first().is_some_and(|domain| domain.contains('*')) {
            return Err("must write its trust domain out: elsewhere, the same path is somebody else's".to_owned());
        }
        if let Some(part) = segments.iter().find(|part| part.contains('*') && !matches!(**part, "*" | "**")) {
            return Err(format!("has `*` inside of the segment `{part}`; it stands for a whole one"));
        }
        // What is left without the wildcards must be an ID in its one spelling.
        let plain: Vec<&str> = segments.iter().map(|part| if part.contains('*') { "x" } else { *part }).collect();
        x509::workload(&format!("{SCHEME}{}", plain.join("/"))).map_err(|_| not_one())?;
        let closed = segments.pop_if(|last| *last == "**").is_none();
        if segments.contains(&"**") {
            return Err("has `**` before its end; it stands for all that follows, and can only be the last segment".to_owned());
        }
        Ok(Self { segments, closed })
    }

    /// Whether it stands for more than one ID.
    fn is_open(&self) -> bool {
        !self.closed || self.segments.contains(&"*")
    }

    /// Its segments, none for `*`.
    fn literals(&self) -> Vec<Option<&'a str>> {
        self.segments.iter().map(|segment| (*segment != "*").then_some(*segment)).collect()
    }
}

/// Pairs of patterns that are equally narrow and match some ID alike, told at the first of the two.
fn alike(patterns: &[(&str, Pattern<'_>)]) -> Vec<Fault> {
    let mut patterns: Vec<_> = patterns.iter().collect();
    patterns.sort_unstable_by_key(|(id, _)| *id);
    let apart = patterns.iter().map(|(_, pattern)| (Width::of(&pattern.literals(), pattern.closed), pattern.literals()));
    let apart: Vec<_> = apart.collect();
    let pairs = segments::overlaps(&apart).into_iter();
    let named = pairs.filter_map(|(first, second)| Some((patterns.get(first)?.0, patterns.get(second)?.0)));
    let fault = |(id, other): (&str, &str)| {
        let text = format!("is as narrow as `{other}`, and there are workloads that match both; make one of the two narrower");
        Fault { at: vec![id.to_owned()], text }
    };
    named.map(fault).collect()
}

#[cfg(test)]
mod tests;
