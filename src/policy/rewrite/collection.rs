//! `some … in`, `every` and `walk`, where the engine's differ from OPA's.

use regorus::unstable::{Expr, Query, Ref, Span};

use super::Rewriter;
use crate::policy::tree::constant_path;

impl<'a> Rewriter<'a> {
    /// OPA leaves `some … in` over what is no collection undefined; the engine ends the evaluation. Object patterns are
    /// taken apart: OPA's match objects with just their keys, the engine's match larger ones too.
    pub(super) fn some_in(&mut self, key: Option<&'a Ref<Expr>>, value: &'a Expr, collection: &'a Expr, with: &str) -> String {
        let mut guards = String::new();
        let key = key.map(|key| self.element(key, &mut guards) + ", ").unwrap_or_default();
        let value = self.element(value, &mut guards);
        format!("some {key}{value} in {}{with}{guards}", self.collection(collection))
    }

    /// A key or value of `some … in`.
    fn element(&mut self, pattern: &'a Expr, guards: &mut String) -> String {
        if !super::pattern::holds_object(pattern) {
            return self.expr(pattern);
        }
        let variable = self.variable();
        guards.push_str("; ");
        let parts = self.take_apart(pattern, &variable);
        guards.push_str(&parts);
        variable
    }

    /// `every` with variables of ours: the engine takes `input.m[v]` under a `not` in its body for a loop over `v`.
    pub(super) fn every(
        &mut self,
        key: Option<&'a Span>,
        value: &'a Span,
        domain: &'a Expr,
        query: &'a Query,
        with: &str,
    ) -> String {
        self.changes += 1;
        let domain = self.collection(domain);
        let mut aliases = String::new();
        let mut variables = Vec::new();
        for name in key.into_iter().chain([value]) {
            let variable = self.variable();
            if name.text() != "_" {
                aliases.push_str(&format!("{} := {variable}; ", name.text()));
            }
            variables.push(variable);
        }
        self.locals.push(key.into_iter().chain([value]).map(Span::text).collect());
        let body = self.query(query);
        self.locals.pop();
        format!("every {} in {domain} {{ {aliases}{body} }}{with}", variables.join(", "))
    }

    /// What is iterated over, undefined when it is no collection.
    fn collection(&mut self, expr: &'a Expr) -> String {
        let text = self.expr(expr);
        if is_collection(expr) {
            return text;
        }
        self.changes += 1;
        format!("internal.collection({text})")
    }

    /// The pairs of `walk`, which the engine yields for its form with two arguments only.
    pub(super) fn walked(&mut self, whole: &str) -> String {
        self.changes += 1;
        let pair = self.variable();
        let with = &self.with;
        self.before.push(format!("walk({whole}, {pair}){with}"));
        pair
    }
}

fn is_collection(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::Array { .. }
            | Expr::Set { .. }
            | Expr::Object { .. }
            | Expr::ArrayCompr { .. }
            | Expr::SetCompr { .. }
            | Expr::ObjectCompr { .. }
    )
}

pub(super) fn is_walk(function: &Expr) -> bool {
    constant_path(function).iter().eq(["walk"])
}
