//! Statements, conditions and terms.

use super::{
    Generator, LAST,
    value::{KEYS, number, word},
};

/// Calls with their arguments left open: `$` is any term, `?` a reference, `#` a scalar.
const CALLS: &[&str] = &[
    "count($)",
    "lower($)",
    "upper($)",
    "to_number($)",
    "abs($)",
    "max($)",
    "min($)",
    "sum($)",
    "sort($)",
    "type_name($)",
    "is_string($)",
    "is_number($)",
    "round($)",
    "json.marshal($)",
    "object.keys($)",
    "trim_space($)",
    "ceil($)",
    "floor($)",
    "product($)",
    "is_array($)",
    "is_object($)",
    "is_set($)",
    "is_boolean($)",
    "is_null($)",
    "strings.reverse($)",
    "base64.encode($)",
    "urlquery.encode($)",
    "startswith($, $)",
    "endswith($, $)",
    "contains($, $)",
    "split($, $)",
    "concat($, $)",
    "array.concat($, $)",
    "trim($, $)",
    "indexof($, $)",
    "union({{$}, {#}})",
    "object.union($, $)",
    "bits.and($, $)",
    "format_int($, 16)",
    "object.remove($, $)",
    "trim_prefix($, $)",
    "numbers.range($, $)",
    "object.filter($, $)",
    "trim_left($, $)",
    "strings.count($, $)",
    "intersection({{$}, {#}})",
    "json.remove($, $)",
    "object.get($, #, #)",
    "object.get(?, [\"a\", \"k\"], #)",
    "sprintf(\"%v-%v\", [$, #])",
    "sprintf(\"%d %s\", [?, ?])",
    "time.parse_rfc3339_ns(?)",
    "time.date(?)",
    "time.clock([?, \"Europe/Berlin\"])",
    "time.weekday(?)",
    "time.add_date(?, 0, 1, 1)",
    "time.diff(?, 1795341600000000000)",
    "time.parse_duration_ns(?)",
    "time.format(?)",
    "time.date(time.parse_rfc3339_ns(?))",
    "numbers.range_step(?, ?, 2)",
    "bits.lsh(?, 1)",
    "bits.or(?, 6)",
    "bits.negate(?)",
    "units.parse(?)",
    "units.parse_bytes(?)",
    "semver.is_valid(?)",
    "semver.compare(?, \"1.2.3\")",
    "net.cidr_contains(\"10.0.0.0/8\", ?)",
    "net.cidr_contains(?, \"10.0.0.1\")",
    "json.unmarshal(?)",
    "json.is_valid(?)",
    "base64.decode(?)",
    "base64url.encode(?)",
    "hex.encode(?)",
    "crypto.sha256(?)",
    "object.union_n([?, ?])",
    "json.filter(?, [\"a\", \"k/a\"])",
    "array.reverse(?)",
    "array.slice(?, 1, 2)",
    "substring(?, 1, 2)",
    "replace(?, \"a\", ?)",
    "strings.replace_n({\"a\": \"b\", \"b\": \"c\"}, ?)",
    "strings.any_prefix_match(?, ?)",
    "trim_suffix(?, \"b\")",
    "indexof_n(?, \"a\")",
    "regex.replace(?, \"a(b?)\", \"<$1>\")",
    "regex.find_n(\"[a-z]\", ?, 2)",
    "regex.split(\"-\", ?)",
    "regex.find_all_string_submatch_n(\"(a)(n?)\", ?, -1)",
    "regex.is_valid(?)",
    "glob.quote_meta(?)",
    "object.subset(?, ?)",
    "urlquery.decode(?)",
];
const PATTERNS: [&str; 9] = [r"^a", r"\\d+", r"[a-z]+$", r"\\w-\\w", ".*", "(?i)ANN", r"\\bb\\b", "^/a/[^/]+$", "a|b"];
const GLOBS: [&str; 8] = ["a*", "*", "/a/*", "**", "{a,b}", "[ab]nn", "?", "/**"];
const COMPARISONS: [&str; 6] = ["==", "!=", "<", "<=", ">", ">="];
const ARITHMETIC: [&str; 5] = ["+", "-", "*", "/", "%"];
const SET_OPERATORS: [&str; 3] = ["&", "|", "-"];

impl Generator {
    /// A statement; what it binds is in sight afterwards.
    pub(super) fn statement(&mut self, depth: u8) -> String {
        // What `with` puts in place is bound before.
        let with = if self.rng.u8(..8) == 0 { self.with() } else { String::new() };
        let text = match self.rng.u8(..18) {
            0 | 1 => {
                let (value, name) = (self.term(depth), self.fresh());
                self.locals.push(name.clone());
                format!("{name} := {value}")
            }
            2 => {
                let (from, name) = (self.operand(1), self.fresh());
                self.locals.push(name.clone());
                format!("some {name} in {from}")
            }
            3 => {
                let (from, key, name) = (self.operand(1), self.fresh(), self.fresh());
                self.locals.extend([key.clone(), name.clone()]);
                format!("some {key}, {name} in {from}")
            }
            4 | 5 if depth > 0 => {
                let (from, name) = (self.operand(1), self.fresh());
                let known = self.locals.len();
                self.locals.push(name.clone());
                let inner = if self.rng.bool() { self.condition(0) } else { format!("not {}", self.condition(0)) };
                self.locals.truncate(known);
                // OPA refuses a variable that is declared here and not used.
                format!("every {name} in {from} {{ {name} != {}; {inner} }}", self.scalar())
            }
            6 | 7 => self.pattern(),
            8 => {
                let name = self.fresh();
                self.locals.push(name.clone());
                format!("some {name}; {} == input.r[{name}]", self.scalar())
            }
            9 => {
                let (name, from) = (self.fresh(), self.one(&["input.s", "input.m", "conf.roles", "input.r", "data.t.base"]));
                self.locals.push(name.clone());
                format!("{name} = {from}[_]")
            }
            10..=13 => format!("not {}", self.condition(1)),
            _ => self.condition(depth),
        };
        if text.starts_with("some ") { text } else { text + &with }
    }

    fn with(&mut self) -> String {
        let target = match self.rng.u8(..8) {
            0 => "data.conf.limits".to_owned(),
            1 => "data.conf.roles.ann".to_owned(),
            2 => "data.t.base.a".to_owned(),
            3 if !self.values.is_empty() => {
                let at = self.rng.usize(..self.values.len());
                format!("data.{}.{}", self.values[at].package, self.values[at].name)
            }
            4 => return " with input as {\"u\": \"a\", \"m\": {\"a\": 1}}".to_owned(),
            _ => format!("input.{}", self.one(&KEYS)),
        };
        let depth = self.rng.u8(..2);
        let value = self.term(depth);
        if self.rng.u8(..4) == 0 {
            return format!(" with {target} as {value} with input.u as {}", self.scalar());
        }
        format!(" with {target} as {value}")
    }

    /// Against a constant, OPA's compiler would see that a pattern never matches.
    fn pattern(&mut self) -> String {
        let (from, name) = (self.any(), self.fresh());
        self.locals.push(name.clone());
        match self.rng.u8(..8) {
            0 => format!("{{\"a\": {name}}} := {from}"),
            1 => format!("{{\"a\": {name}}} = {from}"),
            2 => format!("[{name}, _] := {from}"),
            3 => format!("[{name}, 1] = {from}"),
            4 => format!("some {{\"a\": {name}}} in {from}"),
            5 => format!("some [{name}, _] in {from}"),
            6 => format!("split({from}, \"-\", {name})"),
            _ => format!("walk({from}, [_, {name}])"),
        }
    }

    fn condition(&mut self, depth: u8) -> String {
        match self.rng.u8(..9) {
            // Not with a parenthesis in front, which the engine's parser takes for arguments of the line before.
            0..=2 => format!("{} {} {}", self.operand(0), self.one(&COMPARISONS), self.term(depth)),
            3 => format!("{} in {}", self.term(0), self.term(1)),
            4 => format!("{}, {} in {}", word(&mut self.rng), self.scalar(), self.reference()),
            5 => format!("regex.match(\"{}\", {})", self.one(&PATTERNS), self.any()),
            6 => format!("glob.match(\"{}\", [\"/\"], {})", self.one(&GLOBS), self.any()),
            7 => self.reference(),
            _ => self.call(depth),
        }
    }

    pub(super) fn scalar(&mut self) -> String {
        match self.rng.u8(..4) {
            0 => number(&mut self.rng).to_string(),
            1 => self.one(&["true", "false", "null"]).to_owned(),
            _ => word(&mut self.rng).to_string(),
        }
    }

    /// A reference of which OPA's type checker knows nothing.
    fn any(&mut self) -> String {
        match self.rng.u8(..8) {
            0 => "input.missing".to_owned(),
            1 => format!("input.m.{}", self.one(&["a", "b", "k"])),
            2 => format!("input.r[{}]", self.rng.u8(..3)),
            3 => format!("conf.{}", self.one(&["roles", "limits", "list", "on", "none"])),
            4 if !self.locals.is_empty() => self.local(),
            _ => format!("input.{}", self.one(&KEYS)),
        }
    }

    /// Mostly one of those.
    fn operand(&mut self, depth: u8) -> String {
        if self.rng.u8(..10) == 0 { self.term(depth) } else { self.any() }
    }

    fn reference(&mut self) -> String {
        match self.rng.u8(..13) {
            0 => "input.missing".to_owned(),
            1 => format!("input.m.{}", self.one(&["a", "b", "k"])),
            2 => format!("input.r[{}]", self.rng.u8(..3)),
            3 => format!("conf.{}", self.one(&["roles", "limits", "list", "on", "none"])),
            4 => "conf.roles[input.u]".to_owned(),
            5 | 6 if !self.values.is_empty() => {
                let at = self.rng.usize(..self.values.len());
                let known = self.values[at].clone();
                let name = self.spelled(&known);
                match self.rng.u8(..4) {
                    0 if known.keyed => format!("{name}.a"),
                    1 if known.keyed => format!("{name}[input.u]"),
                    _ => name,
                }
            }
            7 if self.module == LAST => match self.rng.u8(..4) {
                0 => "data.lib[input.u]".to_owned(),
                1 => "s".to_owned(),
                2 => "s.b".to_owned(),
                _ => "data.lib".to_owned(),
            },
            8 => format!("data.t.base.{}", self.one(&["a", "k", "none"])),
            9 if self.module == 2 => format!("m.{}", self.one(&["a", "k"])),
            10 | 11 if !self.locals.is_empty() => self.local(),
            _ => format!("input.{}", self.one(&KEYS)),
        }
    }

    fn call(&mut self, depth: u8) -> String {
        // Of constants, OPA's type checker would refuse most.
        let depth = if self.rng.u8(..4) == 0 { depth.saturating_sub(1) } else { 0 };
        if self.rng.u8(..4) == 0 && !self.functions.is_empty() {
            let at = self.rng.usize(..self.functions.len());
            let known = self.functions[at].clone();
            return format!("{}({})", self.spelled(&known), self.operand(depth));
        }
        let mut text = String::new();
        for part in self.one(CALLS).chars() {
            match part {
                '$' if !text.ends_with('<') => text.push_str(&self.operand(depth)),
                '?' if !text.ends_with(['b', 'n']) => text.push_str(&self.any()),
                '#' => text.push_str(&self.scalar()),
                part => text.push(part),
            }
        }
        text
    }

    pub(super) fn term(&mut self, depth: u8) -> String {
        if depth == 0 {
            return if self.rng.u8(..3) == 0 { self.scalar() } else { self.reference() };
        }
        match self.rng.u8(..16) {
            0 | 1 => self.scalar(),
            2..=5 => self.reference(),
            6 | 7 => self.call(depth),
            8 => format!("({} {} {})", self.operand(0), self.one(&ARITHMETIC), self.operand(0)),
            9 => format!("({} {} {})", self.set(), self.one(&SET_OPERATORS), self.any()),
            10 => format!("[{}, {}]", self.term(depth - 1), self.term(depth - 1)),
            11 => format!("{{\"a\": {}, \"b\": {}}}", self.term(depth - 1), self.scalar()),
            12 => self.set(),
            13 => format!("$\"-{{{}}}-\"", self.reference()),
            _ => self.comprehension(depth - 1),
        }
    }

    fn set(&mut self) -> String {
        format!("{{{}, {}}}", self.term(0), self.scalar())
    }

    fn comprehension(&mut self, depth: u8) -> String {
        let known = self.locals.len();
        let (from, name) = (self.operand(0), self.fresh());
        self.locals.push(name.clone());
        let not = if self.rng.u8(..3) == 0 { "not " } else { "" };
        let condition = format!("{name} {} {}; {not}{}", self.one(&COMPARISONS), self.term(0), self.condition(0));
        let text = match self.rng.u8(..3) {
            0 => format!("[{} | some {name} in {from}; {condition}]", self.term(depth)),
            1 => format!("{{{} | some {name} in {from}; {condition}}}", self.term(depth)),
            _ => format!("{{{name}: {} | some {name} in {from}; {condition}}}", self.term(depth)),
        };
        self.locals.truncate(known);
        text
    }
}
