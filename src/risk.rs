//! What is noticed about a caller, weighed: signals with weights that add up and decay, a level, and the reasons. Risk
//! may raise a tier; it grants nothing.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use crate::{
    clock::Now,
    config::Span,
    json::{Fault, Members},
    verdict::{Level, Signal, SignalName},
};

/// What others can cause raises the level by one step in this time.
const STEP: Duration = Duration::from_secs(3600);

/// How risky a caller is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Risk {
    pub score: u32,
    pub level: Level,
    /// One for each signal that counted, the weightiest first: `credential_reuse +40`.
    pub reasons: Vec<String>,
}

/// `data.doorward.signals`: what each signal weighs, and what comes of it. An absent document is the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weights {
    /// Of signals that do not weigh what [`usual`] says.
    weights: BTreeMap<SignalName, u32>,
    /// After which a signal that has passed weighs half.
    half_life: Duration,
    /// The scores at which the levels begin.
    medium: u32,
    high: u32,
    pub burst: Burst,
    /// So many denials in a row are a signal.
    pub denial_streak: u32,
    ends_session: Vec<SignalName>,
}

/// So many calls within a time are a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burst {
    pub calls: u32,
    pub window: Duration,
}

impl Default for Burst {
    fn default() -> Self {
        Self { calls: 1000, window: Duration::from_secs(10) }
    }
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            weights: BTreeMap::new(),
            half_life: Duration::from_secs(900),
            medium: 30,
            high: 60,
            burst: Burst::default(),
            denial_streak: 10,
            ends_session: Vec::new(),
        }
    }
}

/// What a signal weighs unless the document says otherwise: one that a workload gives in everyday life is no risk by
/// itself, a stolen credential or a change of surroundings is.
const fn usual(name: SignalName) -> u32 {
    match name {
        SignalName::CredentialReuse => 40,
        SignalName::CredentialZone
        | SignalName::RegistrationEnded
        | SignalName::EnvironmentChanged
        | SignalName::IssuerChanged => 30,
        SignalName::CredentialAge | SignalName::CredentialLifetime | SignalName::Unregistered | SignalName::ZoneChanged => 20,
        SignalName::Unowned | SignalName::OffSchedule | SignalName::DenialStreak | SignalName::Burst => 15,
        SignalName::FirstUse => 5,
    }
}

/// Whether somebody else than the caller can bring it about: who shows a stolen credential first makes a second presenter
/// of its owner.
const fn is_caused_by_others(name: SignalName) -> bool {
    matches!(name, SignalName::CredentialReuse | SignalName::CredentialZone)
}

impl Weights {
    /// Reads the document.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn compile(document: &Value) -> Result<Self, Vec<Fault>> {
        let usually = Self::default();
        let mut members = Members::of(document);
        let (medium, high) =
            members.read_by("levels", |document| usually.levels(document)).unwrap_or((usually.medium, usually.high));
        let weights = Self {
            weights: members.read_by("weights", by_name).unwrap_or_default(),
            half_life: members.read("half_life").map_or(usually.half_life, Span::duration),
            medium,
            high,
            burst: members.read_by("burst", Burst::compile).unwrap_or_default(),
            denial_streak: at_least_one(&mut members, "denial_streak").unwrap_or(usually.denial_streak),
            ends_session: members.read("ends_session").unwrap_or_default(),
        };
        members.finish(weights)
    }

    /// Whether it says no more than an absent document.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a signal ends the session that it is noticed in.
    pub fn ends_session(&self, name: SignalName) -> bool {
        self.ends_session.contains(&name)
    }

    fn levels(&self, document: &Value) -> Result<(u32, u32), Vec<Fault>> {
        let mut members = Members::of(document);
        let medium = at_least_one(&mut members, "medium").unwrap_or(self.medium);
        let high = at_least_one(&mut members, "high").unwrap_or(self.high);
        if medium > high {
            members.refuse_all(format!("`medium` begins at {medium} and `high` at {high}; `high` must be no less"));
        }
        members.finish((medium, high))
    }

    fn of(&self, name: SignalName) -> u32 {
        self.weights.get(&name).copied().unwrap_or_else(|| usual(name))
    }

    const fn level(&self, score: u32) -> Level {
        if score >= self.high {
            Level::High
        } else if score >= self.medium {
            Level::Medium
        } else {
            Level::Low
        }
    }

    /// What is left of a weight after a time.
    fn left(&self, weight: u32, age: Duration) -> u32 {
        let halves = age.as_secs_f64() / self.half_life.as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the weight")]
        let left = (f64::from(weight) * 0.5_f64.powf(halves)).round() as u32;
        left.min(weight)
    }
}

impl Burst {
    fn compile(document: &Value) -> Result<Self, Vec<Fault>> {
        let usually = Self::default();
        let mut members = Members::of(document);
        let calls = at_least_one(&mut members, "calls").unwrap_or(usually.calls);
        let window = members.read("window").map_or(usually.window, Span::duration);
        members.finish(Self { calls, window })
    }
}

fn by_name(document: &Value) -> Result<BTreeMap<SignalName, u32>, Vec<Fault>> {
    let mut members = Members::of(document);
    let weights = SignalName::ALL.iter().filter_map(|name| Some((*name, members.read(name.as_str())?))).collect();
    members.finish(weights)
}

fn at_least_one(members: &mut Members<'_>, name: &'static str) -> Option<u32> {
    let number = members.read(name)?;
    if number == 0 {
        members.refuse(name, "must be at least 1");
    }
    Some(number)
}

/// Weighs what is noticed now, in full, and what was noticed before, decayed: which signal, when first and when last. Each
/// signal counts once, at what it weighs most.
pub fn assess(weights: &Weights, current: &[Signal], remembered: &[(SignalName, Now, Now)], now: Now) -> Risk {
    let mut counted: BTreeMap<SignalName, u32> = current.iter().map(|signal| (signal.name, weights.of(signal.name))).collect();
    for (name, _, last) in remembered {
        let left = weights.left(weights.of(*name), since(*last, now));
        counted.entry(*name).and_modify(|weight| *weight = (*weight).max(left)).or_insert(left);
    }
    counted.retain(|_, weight| *weight > 0);
    let sum = |of: &dyn Fn(SignalName) -> bool| {
        counted.iter().filter(|(name, _)| of(**name)).fold(0_u32, |sum, (_, weight)| sum.saturating_add(*weight))
    };
    let score = sum(&|_| true);
    let own = weights.level(sum(&|name| !is_caused_by_others(name)));
    let level = weights.level(score).min(highest(own, remembered, now));
    let mut reasons: Vec<(SignalName, u32)> = counted.into_iter().collect();
    reasons.sort_by(|(a, more), (b, less)| less.cmp(more).then(a.cmp(b)));
    let reasons = reasons.iter().map(|(name, weight)| format!("{} +{weight}", name.as_str())).collect();
    Risk { score, level, reasons }
}

/// The highest level that what others cause may raise `own` to: the next one at once, the one after it in an hour.
fn highest(own: Level, remembered: &[(SignalName, Now, Now)], now: Now) -> Level {
    let first = remembered.iter().filter(|(name, ..)| is_caused_by_others(*name)).map(|(_, first, _)| *first).min();
    let hours = first.map_or(0, |first| since(first, now).as_secs() / STEP.as_secs());
    let steps = usize::try_from(hours).unwrap_or(usize::MAX).saturating_add(1);
    Level::ALL.iter().copied().filter(|level| *level >= own).nth(steps).unwrap_or(Level::High)
}

fn since(then: Now, now: Now) -> Duration {
    now.since_epoch().saturating_sub(then.since_epoch())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn signal(name: SignalName) -> Signal {
        Signal { name, since_ns: 0, detail: String::new() }
    }

    fn at(seconds: u64) -> Now {
        Now::from_seconds(seconds)
    }

    #[test]
    fn signals_add_up_once_each_and_say_so() {
        use SignalName::{CredentialReuse, FirstUse, OffSchedule, Unowned};
        for (names, score, level, reasons) in [
            (vec![], 0, Level::Low, vec![]),
            (vec![FirstUse], 5, Level::Low, vec!["first_use +5"]),
            (vec![OffSchedule, Unowned, OffSchedule], 30, Level::Medium, vec!["unowned +15", "off_schedule +15"]),
            (
                vec![FirstUse, Unowned, CredentialReuse],
                60,
                Level::Medium,
                vec!["credential_reuse +40", "unowned +15", "first_use +5"],
            ),
        ] {
            let current: Vec<_> = names.iter().copied().map(signal).collect();
            let risk = assess(&Weights::default(), &current, &[], at(0));
            assert_eq!((risk.score, risk.level), (score, level), "{names:?}");
            assert_eq!(risk.reasons, reasons);
        }
    }

    #[test]
    fn what_has_passed_decays() {
        let remembered = [(SignalName::IssuerChanged, at(0), at(1000))];
        for (now, score) in [(500, 30), (1000, 30), (1900, 15), (2800, 8), (10_000, 0)] {
            let risk = assess(&Weights::default(), &[], &remembered, at(now));
            assert_eq!((risk.score, risk.reasons.is_empty()), (score, score == 0), "{now}");
        }
        let again = assess(&Weights::default(), &[signal(SignalName::IssuerChanged)], &remembered, at(1900));
        assert_eq!(again.score, 30, "the same signal counts once, at its most");
    }

    #[test]
    fn what_others_cause_raises_by_one_step_an_hour() {
        use SignalName::{CredentialReuse, CredentialZone, IssuerChanged, Unowned};
        let weights = Weights::compile(&json!({"weights": {"credential_reuse": 100, "credential_zone": 100}})).unwrap();
        for (names, first, level) in [
            (vec![CredentialReuse, CredentialZone], None, Level::Medium),
            (vec![CredentialReuse, CredentialZone], Some(3599), Level::Medium),
            (vec![CredentialReuse, CredentialZone], Some(3600), Level::High),
            (vec![CredentialReuse, Unowned], Some(60), Level::Medium),
            (vec![CredentialReuse, IssuerChanged], Some(60), Level::High),
            (vec![IssuerChanged], Some(7200), Level::Medium),
        ] {
            let remembered: Vec<_> = first.map(|ago| (CredentialReuse, at(10_000 - ago), at(0))).into_iter().collect();
            let current: Vec<_> = names.iter().copied().map(signal).collect();
            assert_eq!(assess(&weights, &current, &remembered, at(10_000)).level, level, "{names:?} {first:?}");
        }
    }

    #[test]
    fn the_document_says_all_of_it() {
        let weights = Weights::compile(&json!({
            "weights": {"burst": 50, "unowned": 0}, "half_life": "1m", "levels": {"medium": 10, "high": 50},
            "burst": {"calls": 5, "window": "1s"}, "denial_streak": 3, "ends_session": ["issuer_changed"],
        }))
        .unwrap();
        assert!(weights.ends_session(SignalName::IssuerChanged) && !weights.ends_session(SignalName::Burst));
        assert_eq!((weights.burst, weights.denial_streak), (Burst { calls: 5, window: Duration::from_secs(1) }, 3));
        let now = [signal(SignalName::Unowned), signal(SignalName::Burst)];
        let risk = assess(&weights, &now, &[(SignalName::OffSchedule, at(0), at(0))], at(60));
        assert_eq!((risk.score, risk.level), (58, Level::High));
        assert_eq!(risk.reasons, ["burst +50", "off_schedule +8"]);
        assert!(Weights::compile(&json!({})).unwrap().is_empty() && !weights.is_empty());
    }

    #[test]
    fn all_that_is_wrong_is_told() {
        for (document, places) in [
            (json!([]), vec![""]),
            (json!({"weight": {}, "half_life": "0s"}), vec!["half_life", "weight"]),
            (json!({"weights": {"unheard_of": 1}}), vec!["weights/unheard_of"]),
            (json!({"weights": {"burst": -1}}), vec!["weights/burst"]),
            (json!({"levels": {"medium": 0}, "denial_streak": 0}), vec!["levels/medium", "denial_streak"]),
            (json!({"levels": {"medium": 70}}), vec!["levels"]),
            (json!({"burst": {"calls": "many", "window": 10}}), vec!["burst/calls", "burst/window"]),
            (json!({"ends_session": ["burst", "theft"]}), vec!["ends_session/1"]),
        ] {
            let faults = Weights::compile(&document).unwrap_err();
            assert_eq!(faults.iter().map(|fault| fault.at.join("/")).collect::<Vec<_>>(), places, "{document}: {faults:?}");
        }
    }

    fn any_signals() -> impl Strategy<Value = Vec<SignalName>> {
        prop::collection::vec(prop::sample::select(SignalName::ALL), 0..20)
    }

    fn any_memories() -> impl Strategy<Value = Vec<(SignalName, Now, Now)>> {
        let memory = (prop::sample::select(SignalName::ALL), 0_u64..20_000, 0_u64..20_000);
        prop::collection::vec(memory.prop_map(|(name, a, b)| (name, at(a.min(b)), at(a.max(b)))), 0..20)
    }

    proptest! {
        #[test]
        fn more_never_lowers_score_or_level(
            names in any_signals(), memories in any_memories(), more in any_signals(), older in any_memories(), now in 0_u64..30_000,
        ) {
            let weights = Weights::default();
            let mut current: Vec<Signal> = names.into_iter().map(signal).collect();
            let mut remembered = memories;
            let before = assess(&weights, &current, &remembered, at(now));
            current.extend(more.into_iter().map(signal));
            remembered.extend(older);
            let after = assess(&weights, &current, &remembered, at(now));
            prop_assert!(after.score >= before.score && after.level >= before.level, "{before:?} {after:?}");
        }

        #[test]
        fn time_alone_never_raises_the_score(memories in any_memories(), now in 20_000_u64..30_000, later in 0_u64..10_000) {
            let weights = Weights::default();
            let (before, after) = (assess(&weights, &[], &memories, at(now)), assess(&weights, &[], &memories, at(now + later)));
            prop_assert!(after.score <= before.score);
        }

        #[test]
        fn others_alone_never_raise_by_two_steps_within_the_hour(
            names in any_signals(), memories in any_memories(), now in 20_000_u64..23_000,
        ) {
            let weights = Weights::compile(&json!({"weights": {"credential_reuse": 1000}})).unwrap();
            let own: Vec<_> = names.into_iter().filter(|name| !is_caused_by_others(*name)).map(signal).collect();
            let mine: Vec<_> = memories.into_iter().filter(|(name, ..)| !is_caused_by_others(*name)).collect();
            let before = assess(&weights, &own, &mine, at(now)).level;
            let theirs = [&mine[..], &[(SignalName::CredentialReuse, at(19_500), at(now))]].concat();
            let after = assess(&weights, &own, &theirs, at(now)).level;
            prop_assert!(after as usize <= before as usize + 1);
        }
    }
}
