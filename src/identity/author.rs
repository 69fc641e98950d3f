//! Who acts on our own API, as the control log keeps it: a process of this host by its user id, a workload by its SVID, or
//! a person by a token of an issuer that is listed for people.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest text that is taken from a person's token, in bytes.
const MAX_TEXT: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Author {
    /// A user id.
    Unix(u32),
    /// A SPIFFE ID.
    Workload(String),
    Person(Person),
}

/// Somebody, as a token says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    pub issuer: String,
    pub subject: String,
    /// The value of `control.oidc.person_claim`: what owners are written as.
    pub name: String,
    /// Groups of the token, of which an owner may be one.
    #[serde(skip)]
    pub groups: Vec<String>,
    /// How the person was authenticated (OpenID Connect Core §2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
}

impl Author {
    pub const fn person(&self) -> Option<&Person> {
        match self {
            Self::Person(person) => Some(person),
            Self::Unix(_) | Self::Workload(_) => None,
        }
    }
}

impl Person {
    /// Whether the two are one: of one issuer and subject, or of one name, whoever says so and however it is written.
    pub fn is(&self, other: &Self) -> bool {
        (self.issuer == other.issuer && self.subject == other.subject) || is_same(&self.name, &other.name)
    }

    /// Whether the two may be one, to be held apart: a registry written by hand spells an address otherwise than a token.
    pub fn may_own(&self, owner: &str) -> bool {
        is_same(&self.name, owner) || self.groups.iter().any(|group| is_same(group, owner))
    }

    /// Whether `owner` names the person or one of its groups.
    pub fn owns(&self, owner: &str) -> bool {
        self.name == owner || self.groups.iter().any(|group| group == owner)
    }

    /// Whether its texts are short enough to be kept.
    pub fn fits(&self) -> bool {
        let texts = [&self.issuer, &self.subject, &self.name].into_iter().chain(&self.acr);
        texts.into_iter().all(|text| text.len() <= MAX_TEXT)
    }
}

fn is_same(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(uid) => write!(f, "uid {uid}"),
            Self::Workload(id) => f.write_str(id),
            Self::Person(Person { issuer, subject, name, .. }) => write!(f, "{name} ({issuer}#{subject})"),
        }
    }
}
