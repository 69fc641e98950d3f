//! `data.doorward.tiers`: which tier an action has that names none, what risk raises a tier to, what makes a tier harder
//! than it is anyway, and which tiers are only observed.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::Entry;
use crate::{
    json::{Fault, Members},
    verdict::{Level, Mode, Tier},
};

/// How well the caller has to be proved, from the weakest to the strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// Any verified credential.
    Credential,
    /// A verified peer.
    Peer,
    /// A peer that was proved here, or is the workload we belong to; a token, where there is one, bound to it.
    Sidecar,
}

/// The document. An absent one is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tiers {
    default: Option<Tier>,
    light: Rules,
    standard: Rules,
    strict: Rules,
    /// The least tier at a level of risk.
    medium: Option<Tier>,
    high: Option<Tier>,
}

/// What a tier asks for, beyond what it asks for anyway.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Rules {
    mode: Mode,
    evidence: Option<Proof>,
    max_state_age: Option<Duration>,
    lease: Option<Duration>,
}

impl Tiers {
    /// Reads the document.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn compile(document: &Value) -> Result<Self, Vec<Fault>> {
        let mut members = Members::of(document);
        let raise = |document| {
            let mut members = Members::of(document);
            let (medium, high) = (members.read("medium"), members.read("high"));
            if high.is_some_and(|high: Tier| medium.is_some_and(|medium| high < medium)) {
                members.refuse("high", "must be no lighter than `medium`");
            }
            members.finish((medium, high))
        };
        let tiers = Self {
            default: members.read("default"),
            light: members.read_by("light", |document| Rules::compile(Tier::Light, document)).unwrap_or_default(),
            standard: members.read_by("standard", |document| Rules::compile(Tier::Standard, document)).unwrap_or_default(),
            strict: members.read_by("strict", |document| Rules::compile(Tier::Strict, document)).unwrap_or_default(),
            ..Self::default()
        };
        let (medium, high) = members.read_by("raise", raise).unwrap_or_default();
        members.finish(Self { medium, high, ..tiers })
    }

    /// The tier of an action before its caller is weighed: that of its entry, else the default, else `standard` for what
    /// the catalogue lists and none for what it does not. What is open to everybody has none unless its entry names one.
    pub fn of(&self, entry: Option<&Entry>) -> Tier {
        match entry {
            None => self.default.unwrap_or(Tier::None),
            Some(entry) if entry.is_public => entry.tier.unwrap_or(Tier::None),
            Some(entry) => entry.tier.or(self.default).unwrap_or(Tier::Standard),
        }
    }

    /// The least tier of a caller at this level.
    pub fn at_risk(&self, level: Level) -> Tier {
        match level {
            Level::Low => Tier::None,
            Level::Medium => self.medium.unwrap_or(Tier::None),
            Level::High => self.high.or(self.medium).unwrap_or(Tier::None),
        }
    }

    pub fn mode(&self, tier: Tier) -> Mode {
        self.rules(tier).map_or(Mode::Enforce, |rules| rules.mode)
    }

    /// How well the caller has to be proved.
    pub fn evidence(&self, tier: Tier) -> Option<Proof> {
        self.rules(tier).and_then(|rules| rules.evidence).or_else(|| evidence(tier))
    }

    /// How old the control state may be; where this is none, an older one is only told.
    #[allow(dead_code, reason = "asked once control state comes from elsewhere; it is read and checked already")]
    pub fn max_state_age(&self, tier: Tier) -> Option<Duration> {
        self.rules(tier).and_then(|rules| rules.max_state_age).or_else(|| max_state_age(tier))
    }

    /// What bounds an allow beside its credentials.
    pub fn lease(&self, tier: Tier) -> Option<Duration> {
        self.rules(tier).and_then(|rules| rules.lease).or_else(|| lease(tier))
    }

    /// Whether a call may come under tier strict that no entry of the catalogue puts there.
    pub fn may_be_strict(&self) -> bool {
        [self.default, self.medium, self.high].contains(&Some(Tier::Strict))
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    const fn rules(&self, tier: Tier) -> Option<&Rules> {
        match tier {
            Tier::None => None,
            Tier::Light => Some(&self.light),
            Tier::Standard => Some(&self.standard),
            Tier::Strict => Some(&self.strict),
        }
    }
}

impl Rules {
    /// A tier can be made harder and not lighter, so that its name means at least the same everywhere.
    fn compile(tier: Tier, document: &Value) -> Result<Self, Vec<Fault>> {
        let mut members = Members::of(document);
        let mode = members.read("mode").unwrap_or_default();
        let own: Option<Proof> = members.read("evidence");
        if own < evidence(tier) && own.is_some() {
            members.refuse("evidence", format!("is less than tier `{}` asks for anyway; choose a lighter tier", tier.as_str()));
        }
        let mut seconds = |name, most: Option<Duration>| {
            let own = Duration::from_secs(members.read(name)?);
            if own.is_zero() || most.is_some_and(|most| own > most) {
                let most = most.map(|most| format!(" and at most {}, which is what the tier has anyway", most.as_secs()));
                members.refuse(name, format!("must be at least 1{}", most.unwrap_or_default()));
            }
            Some(own)
        };
        let max_state_age = seconds("max_state_age_s", max_state_age(tier));
        let lease = seconds("lease_s", lease(tier));
        members.finish(Self { mode, evidence: own, max_state_age, lease })
    }
}

const fn evidence(tier: Tier) -> Option<Proof> {
    match tier {
        Tier::None => None,
        Tier::Light => Some(Proof::Credential),
        Tier::Standard => Some(Proof::Peer),
        Tier::Strict => Some(Proof::Sidecar),
    }
}

const fn max_state_age(tier: Tier) -> Option<Duration> {
    match tier {
        Tier::None | Tier::Light => None,
        Tier::Standard => Some(Duration::from_secs(300)),
        Tier::Strict => Some(Duration::from_secs(5)),
    }
}

const fn lease(tier: Tier) -> Option<Duration> {
    match tier {
        Tier::None | Tier::Light | Tier::Standard => None,
        Tier::Strict => Some(Duration::from_secs(300)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tier_is_what_it_is_unless_it_is_made_harder() {
        let none = Tiers::default();
        let seconds = |tiers: &Tiers, tier| (tiers.max_state_age(tier), tiers.lease(tier));
        let s = |count| Some(Duration::from_secs(count));
        assert!(none.is_empty() && !none.may_be_strict());
        for (tier, evidence, times) in [
            (Tier::None, None, (None, None)),
            (Tier::Light, Some(Proof::Credential), (None, None)),
            (Tier::Standard, Some(Proof::Peer), (s(300), None)),
            (Tier::Strict, Some(Proof::Sidecar), (s(5), s(300))),
        ] {
            assert_eq!(
                (none.evidence(tier), seconds(&none, tier), none.mode(tier)),
                (evidence, times, Mode::Enforce),
                "{tier:?}"
            );
        }
        let document = json!({
            "light": {"evidence": "peer", "mode": "observe"},
            "standard": {"max_state_age_s": 60, "lease_s": 900},
            "strict": {"lease_s": 60},
        });
        let tiers = Tiers::compile(&document).unwrap();
        assert!(!tiers.is_empty() && !tiers.may_be_strict());
        assert_eq!((tiers.evidence(Tier::Light), tiers.mode(Tier::Light)), (Some(Proof::Peer), Mode::Observe));
        assert_eq!(seconds(&tiers, Tier::Standard), (s(60), s(900)));
        assert_eq!((seconds(&tiers, Tier::Strict), tiers.mode(Tier::Strict)), ((s(5), s(60)), Mode::Enforce));
    }

    #[test]
    fn risk_raises_up_to_what_is_said() {
        for (raise, medium, high) in [
            (json!({}), Tier::None, Tier::None),
            (json!({"medium": "standard"}), Tier::Standard, Tier::Standard),
            (json!({"high": "strict"}), Tier::None, Tier::Strict),
            (json!({"medium": "standard", "high": "strict"}), Tier::Standard, Tier::Strict),
        ] {
            let tiers = Tiers::compile(&json!({"raise": raise})).unwrap();
            assert_eq!([Level::Low, Level::Medium, Level::High].map(|level| tiers.at_risk(level)), [Tier::None, medium, high]);
            assert_eq!(tiers.may_be_strict(), high == Tier::Strict);
        }
    }

    #[test]
    fn all_that_is_wrong_is_told() {
        for (document, places) in [
            (json!([]), vec![""]),
            (json!({"default": "hard", "stric": {}}), vec!["default", "stric"]),
            (
                json!({"light": {"lease_s": 0}, "strict": {"lease_s": 301, "evidence": "peer"}}),
                vec!["light/lease_s", "strict/evidence", "strict/lease_s"],
            ),
            (
                json!({"standard": {"max_state_age_s": "1", "mode": "off", "age": 1}}),
                vec!["standard/mode", "standard/max_state_age_s", "standard/age"],
            ),
            (json!({"raise": {"medium": "strict", "high": "light"}}), vec!["raise/high"]),
        ] {
            let faults = Tiers::compile(&document).unwrap_err();
            assert_eq!(faults.iter().map(|fault| fault.at.join("/")).collect::<Vec<_>>(), places, "{document}");
        }
    }
}
