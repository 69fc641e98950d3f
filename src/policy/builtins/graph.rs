//! `graph.reachable_paths`, whose answer may be exponential in the graph.

use std::collections::BTreeSet;

use regorus::{Value, value::Object};

use super::{Builtin, Fault, operand, within};

pub(super) const GRAPH: &[Builtin] = &[Builtin { name: "graph.reachable_paths", arity: 2, run: reachable_paths }];

/// Most nodes that all paths together may have, and that may be looked at to find them.
const MAX_NODES: usize = 500_000;
/// Longest path: each step recurses.
const MAX_LENGTH: usize = 5_000;

fn reachable_paths(args: &[Value]) -> Result<Value, Fault> {
    let Some(Value::Object(graph)) = args.first() else { return Err(operand(1, "object")) };
    let initial: Vec<&Value> = match args.get(1) {
        Some(Value::Array(nodes)) => nodes.iter().collect(),
        Some(Value::Set(nodes)) => nodes.iter().collect(),
        _ => return Err(operand(2, "array, set")),
    };
    let mut search = Search { graph, path: Vec::new(), paths: BTreeSet::new(), left: MAX_NODES };
    for node in initial {
        // A node that the graph has not begins no path.
        if graph.get(node).is_some() {
            search.visit(node)?;
        }
    }
    Ok(Value::from(search.paths))
}

struct Search<'a> {
    graph: &'a Object,
    path: Vec<&'a Value>,
    paths: BTreeSet<Value>,
    left: usize,
}

impl<'a> Search<'a> {
    fn visit(&mut self, node: &'a Value) -> Result<(), Fault> {
        let Some(edges) = self.graph.get(node) else { return self.end() };
        self.path.push(node);
        within(self.path.len() <= MAX_LENGTH, "a path is too long")?;
        let neighbors: Vec<&'a Value> = match edges {
            Value::Array(edges) => edges.iter().collect(),
            Value::Set(edges) => edges.iter().collect(),
            _ => Vec::new(),
        };
        self.spend(neighbors.len())?;
        if neighbors.is_empty() {
            self.end()?;
        }
        for neighbor in neighbors {
            // The path ends where it would meet itself, but OPA lets its first node meet itself once.
            let is_met = self.path.len() > 1 && self.path.contains(&neighbor);
            if is_met { self.end()? } else { self.visit(neighbor)? }
        }
        self.path.pop();
        Ok(())
    }

    fn end(&mut self) -> Result<(), Fault> {
        self.spend(self.path.len())?;
        self.paths.insert(Value::from(self.path.iter().map(|node| (*node).clone()).collect::<Vec<_>>()));
        Ok(())
    }

    fn spend(&mut self, nodes: usize) -> Result<(), Fault> {
        self.left = self.left.checked_sub(nodes + 1).ok_or_else(|| Fault::limit("there are too many paths"))?;
        Ok(())
    }
}
