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
    json::Fault,
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
        *self.state == *"active" && self.expires_at.is_none_or(|end| now.seconds() < end)
    }

    pub fn is_on_schedule(&self, now: Now) -> bool {
        self.schedule.as_ref().is_none_or(|schedule| schedule.holds(now))
    }
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
    exact: HashMap<Box<str>, Arc<Workload>, RandomState>,
    /// Patterns by trust domain, then segment by segment.
    patterns: Node,
}

/// Patterns that begin alike.
#[derive(Debug, Default)]
struct Node {
    literal: HashMap<Box<str>, Self, RandomState>,
    /// `*`.
    any: Option<Box<Self>>,
    /// What ends here.
    entry: Option<Arc<Workload>>,
    /// What ends here in `**`.
    rest: Option<Arc<Workload>>,
}

/// How narrow a pattern is, the narrower the larger: more segments written out, then no `**`, then more segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Width {
    literal: usize,
    closed: bool,
    segments: usize,
}

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
        faults.extend(alike(&patterns).into_iter().map(|(id, other)| {
            let text =
                format!("is as narrow as `{other}`, and there are workloads that match both; make one of the two narrower");
            Fault { at: vec![id.to_owned()], text }
        }));
        if faults.is_empty() { Ok(registry) } else { Err(faults) }
    }

    /// The entry of a workload. Takes as long for many entries as for few.
    pub fn find(&self, spiffe_id: &str) -> Option<&Arc<Workload>> {
        let narrowest = || {
            let mut best = None;
            self.patterns.search(Some(spiffe_id.strip_prefix(SCHEME)?), 0, 0, &mut best);
            best.map(|(_, entry)| entry)
        };
        self.exact.get(spiffe_id).or_else(narrowest)
    }

    /// Whether nobody is registered.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.patterns.literal.is_empty()
    }

    fn insert(&mut self, id: &str, pattern: &Pattern<'_>, entry: Arc<Workload>) {
        if !pattern.is_open() {
            self.exact.insert(id.into(), entry);
            return;
        }
        let mut node = &mut self.patterns;
        for segment in &pattern.segments {
            node = match *segment {
                "*" => node.any.get_or_insert_default(),
                literal => node.literal.entry(literal.into()).or_default(),
            };
        }
        *(if pattern.closed { &mut node.entry } else { &mut node.rest }) = Some(entry);
    }
}

impl Node {
    /// Looks below for what is left of an ID, when so many segments lie behind, so many of them written out.
    fn search<'n>(&'n self, left: Option<&str>, segments: usize, literal: usize, best: &mut Option<(Width, &'n Arc<Workload>)>) {
        let mut offer = |closed, entry: &'n Option<Arc<Workload>>| {
            let width = Width { literal, closed, segments };
            if let Some(entry) = entry
                && best.as_ref().is_none_or(|(narrowest, _)| width > *narrowest)
            {
                *best = Some((width, entry));
            }
        };
        offer(false, &self.rest);
        let Some(left) = left else { return offer(true, &self.entry) };
        let (segment, left) = left.split_once('/').map_or((left, None), |(segment, left)| (segment, Some(left)));
        if let Some(node) = self.literal.get(segment) {
            node.search(left, segments + 1, literal + 1, best);
        }
        if let Some(node) = &self.any {
            node.search(left, segments + 1, literal, best);
        }
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

    fn width(&self) -> Width {
        let literal = self.segments.iter().filter(|segment| **segment != "*").count();
        Width { literal, closed: self.closed, segments: self.segments.len() }
    }

    /// Which of the segments are written out.
    fn shape(&self) -> Vec<bool> {
        self.segments.iter().map(|segment| *segment != "*").collect()
    }
}

/// Pairs of patterns that are equally narrow and match some ID alike: those that agree wherever both are written out. In
/// one shape no two can, so that only shapes are compared with each other, and patterns found by what they must agree in.
fn alike<'a>(patterns: &[(&'a str, Pattern<'a>)]) -> Vec<(&'a str, &'a str)> {
    type Shapes<'p, 'a> = HashMap<Vec<bool>, Vec<&'p (&'a str, Pattern<'a>)>>;
    let mut widths: HashMap<Width, Shapes<'_, 'a>> = HashMap::new();
    for pattern in patterns {
        widths.entry(pattern.1.width()).or_default().entry(pattern.1.shape()).or_default().push(pattern);
    }
    let mut found = Vec::new();
    for shapes in widths.into_values() {
        let shapes: Vec<_> = shapes.into_iter().collect();
        for (index, (shape, here)) in shapes.iter().enumerate() {
            for (other, there) in shapes.iter().skip(index + 1) {
                let both: Vec<bool> = shape.iter().zip(other).map(|(a, b)| *a && *b).collect();
                let common = |pattern: &Pattern<'a>| -> Vec<&'a str> {
                    pattern.segments.iter().zip(&both).filter(|(_, both)| **both).map(|(segment, _)| *segment).collect()
                };
                let there: HashMap<Vec<&str>, &str> = there.iter().map(|(id, pattern)| (common(pattern), *id)).collect();
                let pairs = here.iter().filter_map(|(id, pattern)| Some((*id, *there.get(&common(pattern))?)));
                found.extend(pairs.map(|(id, other)| (id.min(other), id.max(other))));
            }
        }
    }
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests;
