//! All functions at once: that none panics, runs away or grows, whatever it is handed.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use super::*;

/// What a function answers when it is called as policies call it.
fn call(name: &str, args: &[Value]) -> Result<Option<Value>, String> {
    let guard = bound::GUARDED.iter().find(|(guarded, _)| *guarded == name).map(|(_, guard)| guard);
    let ours = TABLES.iter().copied().flatten().find(|builtin| builtin.name == name);
    context::begin(0);
    let answer = match (ours, guard) {
        (Some(builtin), _) => (builtin.run)(args),
        (None, Some(guard)) => guard(args).and_then(|()| engine(name, args)),
        (None, None) => engine(name, args),
    };
    context::take_limit().map_or_else(|| Ok(answer.ok()), Err)
}

fn text(length: usize) -> Value {
    Value::from("a".repeat(length))
}

fn numbers(length: usize) -> Value {
    Value::from((0..length).map(Value::from).collect::<Vec<_>>())
}

fn json(text: &str) -> Value {
    Value::from_json_str(text).unwrap()
}

/// Two to the power of `depth` values, of which few are in memory.
fn doubled(depth: usize) -> Value {
    (0..depth).fold(Value::from(1_u64), |inner, _| Value::from(vec![inner.clone(), inner]))
}

fn doubled_object(depth: usize) -> Value {
    let object = |inner: Value| {
        let mut object = Value::new_object();
        object.as_object_mut().unwrap().insert(Value::from("a"), inner.clone());
        object.as_object_mut().unwrap().insert(Value::from("b"), inner);
        object
    };
    (0..depth).fold(Value::from(1_u64), |inner, _| object(inner))
}

#[test]
fn what_would_grow_or_run_away_comes_to_a_limit() {
    let strings = |count: usize, length: usize| Value::from(vec![text(length); count]);
    let complete = |size: usize| {
        let nodes: Vec<_> = (0..size).map(|node| node.to_string()).collect();
        let edges = serde_json::to_value(&nodes).unwrap();
        Value::from(serde_json::Value::Object(nodes.into_iter().map(|node| (node, edges.clone())).collect()))
    };
    let copies = json(&format!("[{}]", vec![r#"{"op": "copy", "from": "", "path": "/a"}"#; 64].join(",")));
    let deep = (0..2_000).map(|depth| format!(r#"{{"op": "add", "path": "{}", "value": {{}}}}"#, "/a".repeat(depth + 1)));
    let deep = json(&format!("[{}]", deep.collect::<Vec<_>>().join(",")));
    let big = Value::from_json_str(&"9".repeat(30_000)).unwrap();
    let bombs = [
        ("numbers.range", vec![json("0"), json("10000000")]),
        ("numbers.range_step", vec![json("0"), json("10000000"), json("1")]),
        ("bits.lsh", vec![json("1"), json("200000")]),
        ("product", vec![Value::from(vec![big.clone(); 8])]),
        ("internal.mul", vec![big.clone(), big]),
        ("to_number", vec![Value::from("9".repeat(1 << 20))]),
        ("json.unmarshal", vec![Value::from("9".repeat(1 << 20))]),
        ("json.unmarshal", vec![Value::from("1e30000")]),
        ("units.parse", vec![Value::from("9".repeat(1 << 20))]),
        ("replace", vec![text(1 << 16), text(1), text(1 << 16)]),
        ("concat", vec![text(0), strings(1_000, 1 << 20)]),
        ("split", vec![text(4 << 20), Value::from("")]),
        ("strings.split_n", vec![text(4 << 20), Value::from(""), json("1")]),
        ("strings.replace_n", vec![json(&format!("{{\"{}\": \"\"}}", "b".repeat(1 << 16))), text(1 << 20)]),
        ("trim", vec![text(1 << 20), Value::from("b".repeat(1 << 20))]),
        ("strings.any_prefix_match", vec![strings(100_000, 100), strings(100_000, 100)]),
        ("indexof_n", vec![text(1 << 20), text(1 << 19)]),
        ("hex.encode", vec![text(16 << 20)]),
        ("base64.encode", vec![text(16 << 20)]),
        ("urlquery.encode", vec![text(16 << 20)]),
        ("array.concat", vec![numbers(600_000), numbers(600_000)]),
        ("array.flatten", vec![Value::from(vec![numbers(10_000); 1_000])]),
        ("object.union", vec![doubled_object(40), doubled_object(40)]),
        ("object.union_n", vec![Value::from(vec![doubled_object(40); 2])]),
        ("object.subset", vec![doubled_object(40), doubled_object(40)]),
        ("object.subset", vec![numbers(50_000), numbers(40_000)]),
        ("graph.reachable_paths", vec![complete(20), json(r#"["1"]"#)]),
        ("walk", vec![doubled(40)]),
        ("walk", vec![numbers(500_000)]),
        ("json.marshal", vec![doubled(40)]),
        ("json.marshal_with_options", vec![numbers(1_000), json(&format!("{{\"prefix\": \"{}\"}}", "a".repeat(1 << 16)))]),
        ("yaml.marshal", vec![doubled(40)]),
        ("json.patch", vec![json("{}"), copies]),
        ("json.patch", vec![json("{}"), deep]),
        ("json.patch", vec![doubled(40), json("[]")]),
        ("json.filter", vec![doubled_object(40), json("[]")]),
        ("json.match_schema", vec![doubled_object(40), json("{}")]),
        ("yaml.unmarshal", vec![Value::from(aliases(30))]),
        ("sprintf", vec![Value::from("%v"), Value::from(vec![doubled(40)])]),
        ("sprintf", vec![Value::from("%1000000d".repeat(20)), numbers(20)]),
        ("internal.template_string", vec![Value::from(vec![doubled(40)])]),
        ("strings.render_template", vec![Value::from("{{range 100000}}{{range 100000}}{{end}}{{end}}"), json("{}")]),
        ("strings.render_template", vec![Value::from("{{$x := \"a\"}}{{range 60}}{{$x = print $x $x}}{{end}}"), json("{}")]),
        ("strings.render_template", vec![Value::from("{{.}}"), doubled_object(40)]),
        ("net.cidr_expand", vec![Value::from("10.0.0.0/6")]),
        ("net.cidr_contains_matches", vec![strings(2_000, 1), strings(2_000, 1)]),
        ("regex.match", vec![Value::from("((a{1,1000}){1,1000}){1,1000}"), text(1)]),
        ("regex.match", vec![Value::from("([ab]{1,400}c?){8}"), text(1 << 20)]),
        ("regex.find_n", vec![Value::from(""), text(4 << 20), json("-1")]),
        ("regex.find_all_string_submatch_n", vec![Value::from("((a))"), text(1 << 20), json("-1")]),
        ("regex.split", vec![Value::from("a"), text(4 << 20)]),
        ("regex.replace", vec![text(100_000), Value::from("a"), Value::from("$0".repeat(1_000))]),
        ("glob.match", vec![Value::from("{a,".repeat(200)), json("[]"), text(1)]),
        ("glob.match", vec![Value::from("{[!a]*,[!b]*}".repeat(1_000)), json("[]"), text(1)]),
        ("time.format", vec![Value::from(vec![json("1"), Value::from("UTC"), text(1 << 20)])]),
        ("semver.compare", vec![text(1 << 20), text(1 << 20)]),
    ];
    let mut unbounded = Vec::new();
    for (name, args) in bombs {
        let start = Instant::now();
        let answer = call(name, &args);
        // A debug build on a busy machine takes its time; what has no bound takes for ever.
        if answer.is_ok() || start.elapsed() > Duration::from_secs(60) {
            unbounded.push(format!("{name} answers after {:?}", start.elapsed()));
        }
    }
    assert!(unbounded.is_empty(), "{}", unbounded.join("\n"));
}

/// Aliases in YAML, each of ten of the one before.
fn aliases(levels: usize) -> String {
    let mut text = "a0: &a0 x\n".to_owned();
    for level in 1..levels {
        let items = vec![format!("*a{}", level - 1); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{items}]\n"));
    }
    text
}

#[test]
fn no_function_panics() {
    let long = Value::from("é".repeat(300));
    let values = [
        "null",
        "true",
        "0",
        "-1",
        "1.5",
        "64",
        "9223372036854775807",
        "-9223372036854775808",
        "18446744073709551616",
        "1e300",
        r#""""#,
        r#""é""#,
        r#""a""#,
        r#""2006-01-02T15:04:05Z""#,
        r#""%""#,
        r#""\u0000""#,
        r#""10.0.0.0/8""#,
        r#""[""#,
        r#""-""#,
        "[]",
        r#"["a", "é"]"#,
        "[9223372036854775807, \"é\"]",
        "[-9223372036854775808, \"UTC\", \"é2006\"]",
        "[1e300]",
        "{}",
        r#"{"a": [1, {"b": null}]}"#,
        r#"{"é": "é"}"#,
    ];
    let mut values: Vec<Value> = values.into_iter().map(json).collect();
    values.extend([long, Value::new_set(), Value::from(std::collections::BTreeSet::from([json("1"), json("\"é\"")]))]);
    let names: std::collections::BTreeMap<&str, u8> = BUILTINS
        .iter()
        .map(|(name, (_, arity))| (*name, *arity))
        .chain(TABLES.iter().copied().flatten().map(|builtin| (builtin.name, builtin.arity)))
        .filter(|(name, _)| !matches!(*name, "http.send" | "trace"))
        .collect();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut panics = Vec::new();
    for (name, arity) in names {
        let count = values.len().pow(u32::from(arity.min(3)));
        // Of many arguments not all combinations are tried.
        let step = if arity > 2 { 11 } else { 1 };
        for index in (0..count).step_by(step) {
            let mut rest = index;
            let mut args: Vec<Value> = Vec::new();
            for position in 0..arity {
                let at = if position < 3 { rest % values.len() } else { index % values.len() };
                rest /= values.len();
                args.push(values[at].clone());
            }
            if catch_unwind(AssertUnwindSafe(|| call(name, &args))).is_err() && panics.len() < 40 {
                panics.push(format!("{name}{args:?}"));
            }
        }
    }
    std::panic::set_hook(hook);
    assert!(panics.is_empty(), "{}", panics.join("\n"));
}
