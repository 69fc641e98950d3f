//! Matches that take the same requests and are equally narrow: which of them counted would be chance.

use std::collections::HashMap;

use super::{
    Width,
    document::{Calls, Match, Written},
};
use crate::json::Fault;

/// A match with the name of its action.
type Named<'a> = (&'a str, &'a Match);

/// One fault for each pair, at the later of the two.
pub(super) fn find(written: &[Written]) -> Vec<Fault> {
    let mut by_width: HashMap<Width, HashMap<Vec<bool>, Vec<Named<'_>>>> = HashMap::new();
    let mut faults = Vec::new();
    let mut tcp: Vec<Named<'_>> = Vec::new();
    for Written { entry, matches, .. } in written {
        for found in matches {
            if let Calls::Tcp(own) = &found.calls {
                let same = tcp.iter().find(|(_, other)| matches!(&other.calls, Calls::Tcp(other) if other == own));
                faults.extend(same.map(|other| fault((&entry.name, found), *other)));
                tcp.push((&entry.name, found));
                continue;
            }
            let mask = found.segments.iter().map(|segment| segment.literal.is_some()).collect();
            by_width.entry(found.width()).or_default().entry(mask).or_default().push((&entry.name, found));
        }
    }
    for masks in by_width.values() {
        let masks: Vec<_> = masks.iter().collect();
        for (index, (mask, ones)) in masks.iter().enumerate() {
            for (other_mask, others) in masks.iter().skip(index) {
                // Two of them can match one path only where what both write out is equal.
                let both: Vec<bool> = mask.iter().zip(*other_mask).map(|(a, b)| *a && *b).collect();
                let mut by_common: HashMap<Vec<&str>, Vec<Named<'_>>> = HashMap::new();
                for one in *ones {
                    by_common.entry(common(one.1, &both)).or_default().push(*one);
                }
                for other in *others {
                    let candidates = by_common.get(&common(other.1, &both)).into_iter().flatten();
                    faults.extend(
                        candidates.filter(|one| one.1.at < other.1.at && meet(one.1, other.1)).map(|one| fault(*other, *one)),
                    );
                    if mask != other_mask {
                        let candidates = by_common.get(&common(other.1, &both)).into_iter().flatten();
                        faults.extend(
                            candidates.filter(|one| one.1.at > other.1.at && meet(one.1, other.1)).map(|one| fault(*one, *other)),
                        );
                    }
                }
            }
        }
    }
    faults.sort_by(|a, b| a.at.cmp(&b.at));
    faults
}

fn common<'a>(found: &'a Match, both: &[bool]) -> Vec<&'a str> {
    let segments = found.segments.iter().zip(both).filter(|(_, both)| **both);
    segments.filter_map(|(segment, _)| segment.literal.as_deref()).collect()
}

/// Whether two matches of one path take a request alike.
fn meet(a: &Match, b: &Match) -> bool {
    let hosts = match (&a.host, &b.host) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    };
    hosts
        && match (&a.calls, &b.calls) {
            (Calls::Methods(a), Calls::Methods(b)) => a.iter().any(|method| b.contains(method)),
            (Calls::Methods(methods), Calls::Grpc) | (Calls::Grpc, Calls::Methods(methods)) => {
                methods.iter().any(|method| method == "POST")
            }
            (Calls::Mcp(a), Calls::Mcp(b)) => a.is_like(b),
            _ => true,
        }
}

fn fault((name, found): Named<'_>, (other_name, other): Named<'_>) -> Fault {
    let who =
        if name == other_name { "another match of the same action".to_owned() } else { format!("the action `{other_name}`") };
    let text = format!("is as narrow as {who}, {}, and both take the same requests; make one of them narrower", other.shown);
    Fault { at: found.at.clone(), text }
}
