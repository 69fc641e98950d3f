//! Random Rego and random inputs. What it writes is safe by construction (each variable is bound before it is used, no
//! rule needs itself), and else as careless as authors are: wrong types, missing keys, sets of everything. Here are
//! modules and rules; `term` writes what stands in them, `value` the data and inputs.

mod term;
mod value;

use std::collections::BTreeMap;

use fastrand::Rng;

pub(super) use self::value::{data, input};

/// A rule, in parts that can be left out one by one.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) name: String,
    /// `f(x) := e`, `default p := e`, `p contains e`.
    pub(super) head: String,
    pub(super) body: Vec<String>,
    /// ` else := e`, or nothing.
    pub(super) tail: String,
    /// A value, which `answer` shows; a function is none.
    pub(super) shown: bool,
}

impl Rule {
    fn text(&self) -> String {
        let Self { head, body, tail, .. } = self;
        if body.is_empty() {
            return format!("{head}{tail}\n");
        }
        format!("{head} if {{\n\t{}\n}}{tail}\n", body.join("\n\t"))
    }
}

/// The packages, in the order in which they may read each other, and what stands before the rules of each module.
const MODULES: [(&str, &str, &str); 4] = [
    ("lib.rego", "lib", "import data.conf as conf\n"),
    ("sub.rego", "t.sub", "import data.conf\nimport data.lib\n"),
    ("more.rego", "t", "import data.conf\nimport data.lib as l\nimport data.t.sub as s\nimport input.m as m\n"),
    ("t.rego", "t", "import data.conf as conf\nimport data.lib\nimport data.t.sub as s\n"),
];
const LAST: usize = MODULES.len() - 1;

/// The rules of each module.
#[derive(Debug, Clone, Default)]
pub(super) struct Policy {
    pub(super) modules: [Vec<Rule>; MODULES.len()],
}

impl Policy {
    pub(super) fn modules(&self) -> Vec<(String, String)> {
        let mut texts = Vec::new();
        for ((file, package, imports), rules) in MODULES.iter().zip(&self.modules) {
            let text = rules.iter().map(Rule::text).collect::<Vec<_>>().join("\n");
            texts.push(((*file).to_owned(), format!("package {package}\n\n{imports}\n{text}")));
        }
        let mut shown: Vec<_> =
            self.modules[LAST - 1..].iter().flatten().filter(|rule| rule.shown).map(|rule| &rule.name).collect();
        shown.dedup();
        let mut fields: Vec<_> = shown.iter().map(|name| format!("\"{name}\": [v | v := {name}]")).collect();
        fields.extend(["data.lib", "data.t.sub"].map(|name| format!("\"{name}\": [v | v := {name}]")));
        texts[LAST].1.push_str(&format!("\nanswer := {{{}}}\n", fields.join(", ")));
        texts
    }

    /// The constructs that the policy holds.
    pub(super) fn constructs(&self) -> impl Iterator<Item = &'static str> + use<> {
        let text: String = self.modules().into_iter().map(|(_, text)| text).collect();
        CONSTRUCTS.iter().filter(move |(_, words)| words.iter().any(|word| text.contains(word))).map(|(name, _)| *name)
    }
}

/// What every longer run must have generated, and the words it is known by.
pub(super) const CONSTRUCTS: [(&str, &[&str]); 24] = [
    ("negation", &["not "]),
    ("undefined", &["input.missing"]),
    ("objects", &["{\"a\": "]),
    ("object patterns", &["{\"a\": v"]),
    ("sets", &[" contains "]),
    ("set operators", &[" & ", " | input"]),
    ("comprehensions", &["| some "]),
    ("functions", &["f(x", ".g0(", "g0("]),
    ("default functions", &["(_) := "]),
    ("defaults", &["default p"]),
    ("else with a body", &["else := ", "} else"]),
    ("every", &["every "]),
    ("with input", &[" with input."]),
    ("with data", &[" with data."]),
    ("imports", &["lib.", "s.", "l."]),
    ("imports of the input", &["m.a", "m.k"]),
    ("packages whole", &["data.lib["]),
    ("names of several parts", &[".q.w := "]),
    ("computed beside plain names", &[".a := "]),
    ("sets below computed names", &["] contains "]),
    ("data beside rules", &["data.t.base"]),
    ("regex", &["regex."]),
    ("glob", &["glob."]),
    ("time", &["time."]),
];

/// A rule that later ones may read.
#[derive(Clone)]
struct Known {
    package: &'static str,
    name: String,
    /// There are keys below it.
    keyed: bool,
}

pub(super) struct Generator {
    pub(super) rng: Rng,
    /// Local variables in sight.
    locals: Vec<String>,
    values: Vec<Known>,
    functions: Vec<Known>,
    variables: usize,
    /// The module at hand.
    module: usize,
}

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        let (values, functions) = (Vec::new(), Vec::new());
        Self { rng: Rng::with_seed(seed), locals: Vec::new(), values, functions, variables: 0, module: 0 }
    }

    pub(super) fn policy(&mut self) -> Policy {
        (self.values, self.functions, self.variables) = (Vec::new(), Vec::new(), 0);
        let mut policy = Policy::default();
        for (module, (letter, most)) in [("k", 2), ("s", 2), ("q", 2), ("p", 5)].into_iter().enumerate() {
            self.module = module;
            let package = MODULES[module].1;
            if module == 0 {
                policy.modules[0].push(self.function("g0"));
                self.functions.push(Known { package, name: "g0".to_owned(), keyed: false });
            }
            for index in 0..self.rng.usize(1..=most) {
                let rules = self.rule(&format!("{letter}{index}"));
                let list = if rules[0].shown { &mut self.values } else { &mut self.functions };
                let keyed = rules.last().is_some_and(|rule| rule.head.contains('['));
                list.push(Known { package, name: rules[0].name.clone(), keyed });
                policy.modules[module].extend(rules);
            }
        }
        policy
    }

    /// How the module at hand spells what is in a package.
    fn spelled(&mut self, Known { package, name, .. }: &Known) -> String {
        let whole = format!("data.{package}.{name}");
        if self.rng.u8(..4) == 0 {
            return whole;
        }
        match (self.module, *package) {
            (module, package) if MODULES[module].1 == package => name.clone(),
            (1 | LAST, "lib") => format!("lib.{name}"),
            (2, "lib") => format!("l.{name}"),
            (2 | LAST, "t.sub") => format!("s.{name}"),
            _ => whole,
        }
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.rng.usize(..of.len())]
    }

    fn function(&mut self, name: &str) -> Rule {
        self.locals = vec!["x".to_owned()];
        let argument = match self.rng.u8(..7) {
            0 => {
                self.locals = vec!["x".to_owned(), "y".to_owned()];
                "[x, y]".to_owned()
            }
            1 => "{\"a\": x}".to_owned(),
            2 => {
                self.locals.clear();
                self.scalar()
            }
            _ => "x".to_owned(),
        };
        let body = self.body();
        let (result, tail) = (self.term(1), self.tail());
        self.locals.clear();
        Rule { name: name.to_owned(), head: format!("{name}({argument}) := {result}"), body, tail, shown: false }
    }

    /// A tail sees nothing of the body but the arguments.
    fn tail(&mut self) -> String {
        if self.rng.u8(..4) > 0 {
            return String::new();
        }
        let locals = std::mem::take(&mut self.locals);
        let mut tail = String::new();
        if self.rng.bool() {
            let body = self.body();
            tail = format!(" else := {} if {{\n\t{}\n}}", self.term(1), body.join("\n\t"));
            self.locals.clear();
        }
        tail.push_str(&format!(" else := {}", self.term(1)));
        self.locals = locals;
        tail
    }

    fn rule(&mut self, name: &str) -> Vec<Rule> {
        self.locals.clear();
        let mut rules = Vec::new();
        let mut push = |head: String, body: Vec<String>, tail: String, shown: bool| {
            rules.push(Rule { name: name.to_owned(), head, body, tail, shown });
        };
        match self.rng.u8(..14) {
            0 => return vec![self.function(name)],
            1 => {
                push(format!("default {name}(_) := {}", self.scalar()), Vec::new(), String::new(), false);
                let function = self.function(name);
                return vec![rules.remove(0), function];
            }
            2 | 3 => {
                if self.rng.bool() {
                    push(format!("default {name} := {}", self.scalar()), Vec::new(), String::new(), true);
                }
                for _ in 0..self.rng.usize(1..3) {
                    self.locals.clear();
                    let body = self.body();
                    push(name.to_owned(), body, String::new(), true);
                }
            }
            4 | 5 => {
                for _ in 0..self.rng.usize(1..3) {
                    self.locals.clear();
                    let body = self.body();
                    push(format!("{name} contains {}", self.term(1)), body, String::new(), true);
                }
            }
            6 | 7 => {
                let body = self.body();
                let key = self.key();
                push(format!("{name}[{key}] := {}", self.term(1)), body, String::new(), true);
                if self.rng.bool() {
                    self.locals.clear();
                    let body = self.body();
                    push(format!("{name}.a := {}", self.term(1)), body, String::new(), true);
                }
            }
            8 => {
                let body = self.body();
                let key = self.key();
                push(format!("{name}[{key}] contains {}", self.term(1)), body, String::new(), true);
            }
            9 => {
                let body = self.body();
                let (first, second) = (self.key(), self.key());
                push(format!("{name}[{first}][{second}] := {}", self.term(0)), body, String::new(), true);
            }
            10 => {
                let body = self.body();
                push(format!("{name}.q.w := {}", self.term(1)), body, String::new(), true);
                if self.rng.bool() {
                    self.locals.clear();
                    let body = self.body();
                    push(format!("{name}.q.v := {}", self.term(1)), body, String::new(), true);
                }
            }
            _ => {
                let body = self.body();
                let (value, tail) = (self.term(2), self.tail());
                push(format!("{name} := {value}"), body, tail, true);
                if self.rng.u8(..3) == 0 {
                    // Two values at once are an error in both.
                    self.locals.clear();
                    let body = self.body();
                    push(format!("{name} := {}", self.scalar()), body, String::new(), true);
                }
            }
        }
        rules
    }

    /// What a name may be computed from.
    fn key(&mut self) -> String {
        if self.locals.is_empty() { "\"k\"".to_owned() } else { self.local() }
    }

    fn local(&mut self) -> String {
        let at = self.rng.usize(..self.locals.len());
        self.locals[at].clone()
    }

    fn fresh(&mut self) -> String {
        self.variables += 1;
        format!("v{}", self.variables)
    }

    fn body(&mut self) -> Vec<String> {
        (0..self.rng.usize(1..4)).map(|_| self.statement(2)).collect()
    }
}

/// How many policies held each construct.
#[derive(Default)]
pub(super) struct Seen(BTreeMap<&'static str, usize>);

impl Seen {
    pub(super) fn add(&mut self, policy: &Policy) {
        policy.constructs().for_each(|name| *self.0.entry(name).or_default() += 1);
    }

    /// The constructs that no policy held.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        CONSTRUCTS.iter().map(|(name, _)| *name).filter(|name| !self.0.contains_key(name)).collect()
    }

    pub(super) fn told(&self) -> String {
        self.0.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    }
}
