//! Where in the data files something stands that was found in the one document that they make.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

use crate::json::Fault;

/// A data file, and the folders that lead to it.
#[derive(Debug, Clone)]
pub(in crate::policy) struct Origin {
    pub(super) label: String,
    pub(super) folders: Vec<String>,
    pub(super) text: String,
}

/// Where a fault stands. Empty where no file has it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::policy) struct Place {
    pub(in crate::policy) file: String,
    pub(in crate::policy) line: u32,
    pub(in crate::policy) column: u32,
    /// The line itself.
    pub(in crate::policy) source: Option<String>,
}

/// The place of each of `faults`, whose paths begin at `data`: in the file that has most of the path, at the last step
/// that is there.
pub(in crate::policy) fn places(origins: &[Origin], faults: &[Fault]) -> Vec<Option<Place>> {
    // JSON is YAML: one reader that tells places does for both.
    let read = |origin: &Origin| super::data::located(&origin.text).ok();
    let trees: Vec<(&Origin, Option<Node>)> = origins.iter().map(|origin| (origin, read(origin))).collect();
    let place = |fault: &Fault| {
        let found = trees.iter().filter_map(|(origin, tree)| {
            let below = fault.at.strip_prefix(&origin.folders[..])?;
            let (steps, at) = tree.as_ref().map(|tree| tree.find(below)).unwrap_or_default();
            Some((steps, origin, at))
        });
        // Of files that have as much of it, the first.
        let (_, origin, (line, column)) = found.rev().max_by_key(|(steps, ..)| *steps)?;
        let source = line.checked_sub(1).and_then(|above| origin.text.lines().nth(above as usize)).map(str::to_owned);
        Some(Place { file: origin.label.clone(), line, column, source })
    };
    faults.iter().map(place).collect()
}

/// Line and column, from 1; zeros where they are not known.
type At = (u32, u32);

/// A document of which only keys and places are kept.
pub(super) enum Node {
    Object(Vec<(String, At, Self)>),
    Array(Vec<(At, Self)>),
    Scalar,
}

impl Node {
    /// How many steps of a path are there, and where the last of them is.
    fn find(&self, path: &[String]) -> (usize, At) {
        let (mut node, mut found) = (self, (0, At::default()));
        for step in path {
            let next = match node {
                Self::Object(members) => members.iter().find(|(key, ..)| key == step).map(|(_, at, below)| (at, below)),
                Self::Array(items) => step.parse().ok().and_then(|index: usize| items.get(index)).map(|(at, below)| (at, below)),
                Self::Scalar => None,
            };
            let Some((at, below)) = next else { break };
            (node, found) = (below, (found.0 + 1, *at));
        }
        found
    }
}

fn at(location: serde_saphyr::Location) -> At {
    let number = |value: u64| u32::try_from(value).unwrap_or(0);
    (number(location.line()), number(location.column()))
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Spanned<Node>>()? {
            items.push((at(item.referenced), item.value));
        }
        Ok(Node::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut members = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, Node>()? {
            members.push((key.value, at(key.referenced), value));
        }
        Ok(Node::Object(members))
    }
}
