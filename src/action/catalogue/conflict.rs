//! Matches that take the same requests and are equally narrow: which of them counted would be chance.

use super::document::{Calls, Match, Written};
use crate::{json::Fault, segments};

/// A match with the name of its action.
type Named<'a> = (&'a str, &'a Match);

/// One fault for each pair, at the later of the two.
pub(super) fn find(written: &[Written]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let (mut by_path, mut tcp): (Vec<Named<'_>>, Vec<Named<'_>>) = (Vec::new(), Vec::new());
    for Written { entry, matches, .. } in written {
        for found in matches {
            if let Calls::Tcp(own) = &found.calls {
                let same = tcp.iter().find(|(_, other)| matches!(&other.calls, Calls::Tcp(other) if other == own));
                faults.extend(same.map(|other| fault((&entry.name, found), *other)));
                tcp.push((&entry.name, found));
            } else {
                by_path.push((&entry.name, found));
            }
        }
    }
    by_path.sort_by(|(_, a), (_, b)| a.at.cmp(&b.at));
    let patterns: Vec<_> = by_path.iter().map(|(_, found)| (found.width(), found.literals())).collect();
    for (earlier, later) in segments::overlaps(&patterns) {
        if let (Some(earlier), Some(later)) = (by_path.get(earlier), by_path.get(later))
            && meet(earlier.1, later.1)
        {
            faults.push(fault(*later, *earlier));
        }
    }
    faults.sort_by(|a, b| a.at.cmp(&b.at));
    faults
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
