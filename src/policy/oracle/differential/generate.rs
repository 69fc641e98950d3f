//! Random Rego and random inputs. What it writes is safe by construction (each variable is bound before it is used, no
//! rule needs itself), and else as careless as authors are: wrong types, missing keys, sets of everything.

use fastrand::Rng;
use serde_json::{Map, Value as Json, json};

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

#[derive(Debug, Clone, Default)]
pub(super) struct Policy {
    pub(super) library: Vec<Rule>,
    pub(super) rules: Vec<Rule>,
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

impl Policy {
    pub(super) fn modules(&self) -> Vec<(String, String)> {
        let text = |rules: &[Rule]| rules.iter().map(Rule::text).collect::<Vec<_>>().join("\n");
        let mut shown: Vec<_> = self.rules.iter().filter(|rule| rule.shown).map(|rule| rule.name.as_str()).collect();
        shown.dedup();
        let fields: Vec<_> = shown.iter().map(|name| format!("\"{name}\": [v | v := {name}]")).collect();
        vec![
            ("lib.rego".to_owned(), format!("package lib\n\nimport data.conf as conf\n\n{}", text(&self.library))),
            (
                "t.rego".to_owned(),
                format!(
                    "package t\n\nimport data.lib\nimport data.conf as conf\n\n{}\nanswer := {{{}}}\n",
                    text(&self.rules),
                    fields.join(", ")
                ),
            ),
        ]
    }
}

/// The data that every policy can read.
pub(super) fn data() -> Json {
    json!({"conf": {"roles": {"ann": ["a", "b"], "bob": []}, "limits": {"a": 1, "b": 2.5}, "list": [1, "a", null, [1], {"a": 1}], "on": true}})
}

const WORDS: [&str; 8] = ["a", "b", "ann", "bob", "/a/b", "x-y", "", "GET"];
const KEYS: [&str; 6] = ["u", "r", "n", "m", "s", "t"];

pub(super) fn input(rng: &mut Rng) -> Json {
    let mut fields = Map::new();
    for key in KEYS {
        if rng.u8(..8) > 0 {
            let value = match (key, rng.u8(..5)) {
                (_, 0) => value(rng, 2),
                ("r", _) => (0..rng.usize(..4)).map(|_| word(rng)).collect(),
                ("n", _) => number(rng),
                ("m", _) => object(rng, 1),
                ("s", _) => (0..rng.usize(..3)).map(|_| object(rng, 1)).collect(),
                ("t", _) => json!(
                    ["2026-11-22T10:00:00Z", "2026-02-30T10:00:00Z", "10:00", "2026-11-22T10:00:00.5+02:00"][rng.usize(..4)]
                ),
                _ => word(rng),
            };
            fields.insert(key.to_owned(), value);
        }
    }
    Json::Object(fields)
}

fn word(rng: &mut Rng) -> Json {
    json!(WORDS[rng.usize(..WORDS.len())])
}

fn number(rng: &mut Rng) -> Json {
    match rng.u8(..6) {
        0 => json!(0.5),
        1 => json!(-3),
        2 => json!(9_007_199_254_740_993_i64),
        _ => json!(rng.u8(..4)),
    }
}

fn object(rng: &mut Rng, depth: u8) -> Json {
    (0..rng.usize(..4)).map(|_| (["a", "b", "k"][rng.usize(..3)].to_owned(), value(rng, depth))).collect::<Map<_, _>>().into()
}

fn value(rng: &mut Rng, depth: u8) -> Json {
    match rng.u8(..if depth == 0 { 4 } else { 6 }) {
        0 => word(rng),
        1 => number(rng),
        2 => json!(rng.bool()),
        3 => Json::Null,
        4 => (0..rng.usize(..3)).map(|_| value(rng, depth - 1)).collect(),
        _ => object(rng, depth - 1),
    }
}

/// Functions by the number of their arguments.
const UNARY: [&str; 24] = [
    "count",
    "lower",
    "upper",
    "to_number",
    "abs",
    "max",
    "min",
    "sum",
    "sort",
    "type_name",
    "is_string",
    "is_number",
    "round",
    "json.marshal",
    "object.keys",
    "trim_space",
    "time.parse_rfc3339_ns",
    "ceil",
    "product",
    "is_array",
    "is_object",
    "strings.reverse",
    "base64.encode",
    "urlquery.encode",
];
const BINARY: [&str; 20] = [
    "startswith",
    "endswith",
    "contains",
    "split",
    "concat",
    "array.concat",
    "trim",
    "indexof",
    "union_of",
    "object.union",
    "bits.and",
    "format_int",
    "object.remove",
    "trim_prefix",
    "numbers.range",
    "object.filter",
    "trim_left",
    "strings.count",
    "intersect_of",
    "json.remove",
];
const PATTERNS: [&str; 9] = [r"^a", r"\\d+", r"[a-z]+$", r"\\w-\\w", ".*", "(?i)ANN", r"\\bb\\b", "^/a/[^/]+$", "a|b"];
const GLOBS: [&str; 8] = ["a*", "*", "/a/*", "**", "{a,b}", "[ab]nn", "?", "/**"];
const COMPARISONS: [&str; 6] = ["==", "!=", "<", "<=", ">", ">="];
const ARITHMETIC: [&str; 5] = ["+", "-", "*", "/", "%"];
const SET_OPERATORS: [&str; 3] = ["&", "|", "-"];

pub(super) struct Generator {
    pub(super) rng: Rng,
    /// Local variables in sight.
    locals: Vec<String>,
    /// Rules that may be read, in the spelling of the module at hand.
    rules: Vec<String>,
    functions: Vec<String>,
    variables: usize,
}

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed), locals: Vec::new(), rules: Vec::new(), functions: Vec::new(), variables: 0 }
    }

    pub(super) fn policy(&mut self) -> Policy {
        (self.rules, self.functions, self.variables) = (Vec::new(), Vec::new(), 0);
        let mut policy = Policy::default();
        for index in 0..2 {
            let name = format!("g{index}");
            policy.library.push(self.function(&name));
            self.functions.push(name);
        }
        self.functions.iter_mut().for_each(|name| *name = format!("lib.{name}"));
        for index in 0..self.rng.usize(2..6) {
            let name = format!("p{index}");
            let rules = self.rule(&name);
            let list = if rules[0].shown { &mut self.rules } else { &mut self.functions };
            list.push(rules[0].name.clone());
            policy.rules.extend(rules);
        }
        policy
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.rng.usize(..of.len())]
    }

    fn function(&mut self, name: &str) -> Rule {
        self.locals = vec!["x".to_owned()];
        let argument = match self.rng.u8(..6) {
            0 => {
                self.locals = vec!["x".to_owned(), "y".to_owned()];
                "[x, y]"
            }
            1 => "{\"a\": x}",
            _ => "x",
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
        let tail = format!(" else := {}", self.term(1));
        self.locals = locals;
        tail
    }

    fn rule(&mut self, name: &str) -> Vec<Rule> {
        self.locals.clear();
        let mut rules = Vec::new();
        let mut push = |head: String, body: Vec<String>, tail: String, shown: bool| {
            rules.push(Rule { name: name.to_owned(), head, body, tail, shown });
        };
        match self.rng.u8(..9) {
            0 => {
                let rule = self.function(name);
                return vec![rule];
            }
            1 | 2 => {
                if self.rng.bool() {
                    push(format!("default {name} := false"), Vec::new(), String::new(), true);
                }
                for _ in 0..self.rng.usize(1..3) {
                    self.locals.clear();
                    let body = self.body();
                    push(name.to_owned(), body, String::new(), true);
                }
            }
            3 | 4 => {
                for _ in 0..self.rng.usize(1..3) {
                    self.locals.clear();
                    let body = self.body();
                    push(format!("{name} contains {}", self.term(1)), body, String::new(), true);
                }
            }
            5 => {
                let body = self.body();
                let key = if self.locals.is_empty() { "\"k\"".to_owned() } else { self.local() };
                push(format!("{name}[{key}] := {}", self.term(1)), body, String::new(), true);
            }
            6 => {
                let body = self.body();
                let value = self.term(1);
                // Read by its whole path: what is above it OPA always defines, and the engine does not.
                return vec![Rule {
                    name: format!("{name}.q.w"),
                    head: format!("{name}.q.w := {value}"),
                    body,
                    tail: String::new(),
                    shown: true,
                }];
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

    /// A statement; what it binds is in sight afterwards.
    fn statement(&mut self, depth: u8) -> String {
        let text = match self.rng.u8(..14) {
            0 | 1 => {
                let (value, name) = (self.term(depth), self.fresh());
                self.locals.push(name.clone());
                format!("{name} := {value}")
            }
            2 => {
                let (from, name) = (self.term(1), self.fresh());
                self.locals.push(name.clone());
                format!("some {name} in {from}")
            }
            3 => {
                let (from, key, name) = (self.term(1), self.fresh(), self.fresh());
                self.locals.extend([key.clone(), name.clone()]);
                format!("some {key}, {name} in {from}")
            }
            4 if depth > 0 => {
                let (from, name) = (self.term(1), self.fresh());
                let known = self.locals.len();
                self.locals.push(name.clone());
                let inner = self.condition(0);
                self.locals.truncate(known);
                // OPA refuses a variable that is declared here and not used.
                return format!("every {name} in {from} {{ {name} != {}; {inner} }}", self.scalar());
            }
            5 => {
                // Against a constant, OPA's compiler would see that the pattern never matches.
                let (from, name) = (self.reference(), self.fresh());
                self.locals.push(name.clone());
                match self.rng.u8(..3) {
                    0 => format!("{{\"a\": {name}}} := {from}"),
                    1 => format!("[{name}, _] := {from}"),
                    _ => format!("walk({from}, [_, {name}])"),
                }
            }
            6 => {
                let name = self.fresh();
                self.locals.push(name.clone());
                format!("some {name}; {} == input.r[{name}]", self.scalar())
            }
            7..=9 => format!("not {}", self.condition(1)),
            _ => self.condition(depth),
        };
        let declares = text.starts_with("some ");
        if self.rng.u8(..12) == 0 && !declares {
            return format!("{text} with input.{} as {}", self.one(&KEYS), self.scalar());
        }
        text
    }

    fn condition(&mut self, depth: u8) -> String {
        match self.rng.u8(..9) {
            0..=2 => format!("{} {} {}", self.term(depth), self.one(&COMPARISONS), self.term(depth)),
            3 => format!("{} in {}", self.term(0), self.term(1)),
            4 => format!("{}, {} in {}", self.scalar(), self.scalar(), self.reference()),
            5 => format!("regex.match(\"{}\", {})", self.one(&PATTERNS), self.term(0)),
            6 => format!("glob.match(\"{}\", [\"/\"], {})", self.one(&GLOBS), self.term(0)),
            7 => self.reference(),
            _ => self.call(depth),
        }
    }

    fn scalar(&mut self) -> String {
        match self.rng.u8(..4) {
            0 => number(&mut self.rng).to_string(),
            1 => self.one(&["true", "false", "null"]).to_owned(),
            _ => word(&mut self.rng).to_string(),
        }
    }

    fn reference(&mut self) -> String {
        match self.rng.u8(..10) {
            0 => "input.missing".to_owned(),
            1 => format!("input.m.{}", self.one(&["a", "b", "k"])),
            2 => format!("input.r[{}]", self.rng.u8(..3)),
            3 => format!("conf.{}", self.one(&["roles", "limits", "list", "on", "none"])),
            4 => "conf.roles[input.u]".to_owned(),
            5 if !self.rules.is_empty() => {
                let at = self.rng.usize(..self.rules.len());
                self.rules[at].clone()
            }
            6 | 7 if !self.locals.is_empty() => self.local(),
            _ => format!("input.{}", self.one(&KEYS)),
        }
    }

    fn call(&mut self, depth: u8) -> String {
        // Of constants, OPA's type checker would refuse most.
        let depth = if self.rng.u8(..4) == 0 { depth.saturating_sub(1) } else { 0 };
        match self.rng.u8(..8) {
            0 | 1 if !self.functions.is_empty() => {
                let at = self.rng.usize(..self.functions.len());
                format!("{}({})", self.functions[at].clone(), self.term(depth))
            }
            2..=4 => format!("{}({})", self.one(&UNARY), self.term(depth)),
            5 => format!("object.get({}, {}, {})", self.term(depth), self.scalar(), self.scalar()),
            6 => format!("sprintf(\"%v-%v\", [{}, {}])", self.term(depth), self.scalar()),
            _ => match self.one(&BINARY) {
                "union_of" => format!("union({{{{{}}}, {{{}}}}})", self.term(0), self.scalar()),
                "intersect_of" => format!("intersection({{{{{}}}, {{{}}}}})", self.term(0), self.scalar()),
                name => format!("{name}({}, {})", self.term(depth), self.term(depth)),
            },
        }
    }

    fn term(&mut self, depth: u8) -> String {
        if depth == 0 {
            return if self.rng.u8(..3) == 0 { self.scalar() } else { self.reference() };
        }
        match self.rng.u8(..14) {
            0 | 1 => self.scalar(),
            2..=5 => self.reference(),
            6 | 7 => self.call(depth),
            8 => format!("({} {} {})", self.term(depth - 1), self.one(&ARITHMETIC), self.term(depth - 1)),
            9 => format!("({} {} {})", self.set(), self.one(&SET_OPERATORS), self.reference()),
            10 => format!("[{}, {}]", self.term(depth - 1), self.term(depth - 1)),
            11 => format!("{{\"a\": {}, \"b\": {}}}", self.term(depth - 1), self.scalar()),
            12 => self.set(),
            _ => self.comprehension(depth - 1),
        }
    }

    fn set(&mut self) -> String {
        format!("{{{}, {}}}", self.term(0), self.scalar())
    }

    fn comprehension(&mut self, depth: u8) -> String {
        let known = self.locals.len();
        let (from, name) = (self.term(0), self.fresh());
        self.locals.push(name.clone());
        let condition = format!("{name} {} {}; {}", self.one(&COMPARISONS), self.term(0), self.condition(0));
        let text = match self.rng.u8(..3) {
            0 => format!("[{} | some {name} in {from}; {condition}]", self.term(depth)),
            1 => format!("{{{} | some {name} in {from}; {condition}}}", self.term(depth)),
            _ => format!("{{{name}: {} | some {name} in {from}; {condition}}}", self.term(depth)),
        };
        self.locals.truncate(known);
        text
    }
}
