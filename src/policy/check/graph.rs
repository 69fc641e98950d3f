//! Which rule needs which, to refuse what would overflow the stack: rules that need themselves, chains that are too
//! long, expressions that nest too deep. regorus accepts all three and then takes the process down.

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{Expr, Literal, Query, Rule, RuleHead, Span};

use crate::policy::{
    names::{Path, Rules},
    problem::{Code, Problem, problem_at},
    tree::{children, comprehension},
};

/// Deepest nesting of one expression. Every chained operator and every step of a reference nests once.
pub(super) const MAX_NESTING: u32 = 250;
/// Chains beyond this overflow the 16 MiB stacks that decisions run on, whatever `policy.limits.depth` says.
const MAX_CHAIN: u32 = 1000;
/// A rule counts once more in its chain for each so many levels that its expressions nest.
const NESTING_PER_LINK: u32 = 16;

/// The rules of the set and what each refers to.
#[derive(Default)]
pub(super) struct Graph<'a>(BTreeMap<Path, Node<'a>>);

struct Node<'a> {
    needs: BTreeSet<Path>,
    cost: u32,
    place: &'a Span,
}

impl<'a> Graph<'a> {
    pub(super) fn add_rule(&mut self, path: Path, rule: &'a Rule) {
        let cost = 1 + nesting(rule) / NESTING_PER_LINK;
        let node = self.0.entry(path).or_insert_with(|| Node { needs: BTreeSet::new(), cost, place: rule.span() });
        node.cost = node.cost.max(cost);
    }

    /// `from` reads what is at `to`: every rule there, below, or on the way. A computed step ends `to`, so that
    /// `data.a[x]` reads all that is below `data.a`.
    pub(super) fn add_need(&mut self, rules: &Rules, from: &Path, to: &[String]) {
        let Some(node) = self.0.get_mut(from) else { return };
        let above =
            (0..to.len()).filter_map(|length| to.get(..length)).filter(|path| rules.contains_key(*path)).map(<[_]>::to_vec);
        let below = rules.range(to.to_vec()..).map(|(path, _)| path).take_while(|path| path.starts_with(to)).cloned();
        node.needs.extend(above.chain(below));
    }

    /// At most one problem for each rule that starts a cycle or too long a chain.
    pub(super) fn problems(&self, limit: u32) -> Vec<Problem> {
        let mut search = Search { graph: self, limit: limit.min(MAX_CHAIN), known: BTreeMap::new(), trail: Vec::new() };
        let mut problems = Vec::new();
        for path in self.0.keys() {
            if let Err(problem) = search.depth(path, 0) {
                problems.push(problem);
                // What lies on the trail is in trouble already; saying so for each of its rules would bury the first.
                let seen: Vec<_> = search.trail.drain(..).collect();
                search.known.extend(seen.into_iter().map(|path| (path, 0)));
            }
        }
        problems
    }
}

struct Search<'g, 'a> {
    graph: &'g Graph<'a>,
    limit: u32,
    /// Length of the longest chain from a rule down.
    known: BTreeMap<&'g Path, u32>,
    trail: Vec<&'g Path>,
}

impl<'g> Search<'g, '_> {
    /// The recursion is as deep as the chain, which `above` bounds.
    fn depth(&mut self, path: &'g Path, above: u32) -> Result<u32, Problem> {
        let Some((path, node)) = self.graph.0.get_key_value(path) else { return Ok(0) };
        if let Some(at) = self.trail.iter().position(|earlier| *earlier == path) {
            let cycle: Vec<_> = self.trail.iter().skip(at).chain([&path]).map(|path| path.join(".")).collect();
            let text = format!("recursion, which Rego forbids: {}; break the cycle", cycle.join(" → "));
            return Err(problem_at(Code::Recursion, node.place, text));
        }
        if let Some(depth) = self.known.get(path) {
            return if above + depth > self.limit { Err(self.too_deep(path, node.place)) } else { Ok(*depth) };
        }
        let above = above + node.cost;
        if above > self.limit {
            return Err(self.too_deep(path, node.place));
        }
        self.trail.push(path);
        let mut deepest = 0;
        for need in &node.needs {
            deepest = deepest.max(self.depth(need, above)?);
        }
        self.trail.pop();
        let depth = deepest + node.cost;
        self.known.insert(path, depth);
        Ok(depth)
    }

    fn too_deep(&self, path: &Path, place: &Span) -> Problem {
        let first = self.trail.first().unwrap_or(&path).join(".");
        let text = format!(
            "the chain of rules from `{first}` to `{}` is deeper than {}; shorten it or raise `policy.limits.depth` (up to {MAX_CHAIN})",
            path.join("."),
            self.limit
        );
        problem_at(Code::TooDeep, place, text)
    }
}

/// How deep the expressions of a rule nest; counting stops just above the limit.
pub(super) fn nesting(rule: &Rule) -> u32 {
    match rule {
        Rule::Spec { head, bodies, .. } => {
            let (refr, value, args): (_, _, &[_]) = match head {
                RuleHead::Compr { refr, assign, .. } => (refr, assign.as_ref().map(|assign| &assign.value), &[]),
                RuleHead::Set { refr, key, .. } => (refr, key.as_ref(), &[]),
                RuleHead::Func { refr, assign, args, .. } => (refr, assign.as_ref().map(|assign| &assign.value), args.as_slice()),
            };
            let assigned = bodies.iter().filter_map(|body| body.assign.as_ref()).map(|assign| &assign.value);
            let head = value.into_iter().chain([refr]).chain(args).chain(assigned).map(|expr| expr_nesting(expr, 1)).max();
            let bodies = bodies.iter().map(|body| query_nesting(&body.query, 1)).max();
            head.max(bodies).unwrap_or(0)
        }
        Rule::Default { value, refr, .. } => expr_nesting(value, 1).max(expr_nesting(refr, 1)),
    }
}

fn query_nesting(query: &Query, level: u32) -> u32 {
    if level > MAX_NESTING {
        return level;
    }
    let of_statement = |statement: &regorus::unstable::LiteralStmt| {
        let literal = match &statement.literal {
            Literal::SomeVars { .. } => level,
            Literal::SomeIn { value, collection, .. } => expr_nesting(value, level).max(expr_nesting(collection, level)),
            Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => expr_nesting(expr, level),
            Literal::Every { domain, query, .. } => expr_nesting(domain, level).max(query_nesting(query, level + 1)),
        };
        let with = statement.with_mods.iter().map(|with| expr_nesting(&with.r#as, level)).max();
        literal.max(with.unwrap_or(0))
    };
    query.stmts.iter().map(of_statement).max().unwrap_or(level)
}

fn expr_nesting(expr: &Expr, level: u32) -> u32 {
    if level > MAX_NESTING {
        return level;
    }
    let query = comprehension(expr).map(|query| query_nesting(query, level + 1));
    let children = children(expr).into_iter().map(|child| expr_nesting(child, level + 1)).max();
    query.max(children).unwrap_or(level)
}
