//! Policies and requests that would hang the process, take its memory or end it, asked again and again while another
//! caller goes on: every attack is denied, the other caller keeps its answers, and memory stays bounded.

use std::{
    fmt::Write as _,
    fs,
    time::{Duration, Instant},
};

use tonic::transport::Channel;

use crate::harness::{
    check::{Answer, Check},
    doorward::{Doorward, Setup, check},
};

/// What the process may ever have resident. Under a debug build, of which the program itself is a good part.
const RESIDENT_MIB: u64 = 512;
/// Longest time from question to answer of an attack: an evaluation, the longest call beyond it, and a busy machine.
const ANSWERED: Duration = Duration::from_secs(8);
/// Who attacks at the same time.
const ATTACKERS: usize = 2;
/// Attacks that are none here: the policy has an answer, which is no.
const HARMLESS: [&str; 8] =
    ["chain", "empty_count", "empty_subset", "layout", "regex_backtracking", "regex_many", "exponent", "units"];

const LIMITS: &str = "  limits: {evaluation: 200ms}\n";
const TOP: &str = "limits: {grace: 100ms, drain: 5s, decision: 10s, evaluators: 2}\n";

const ORDINARY: &str = r#"package envoy.authz

default allow := false

http := input.attributes.request.http

text := http.headers["x-text"]

body := input.parsed_body

allow if {
    input.peer.spiffe_id == "spiffe://example.org/reader"
    http.method == "GET"
    glob.match("/read/*", ["/"], http.path)
}

# A chain as deep as is allowed, which ends in no.
allow if {
    input.parsed_path == ["attack", "chain"]
    c0
}

endless if {
    some a in numbers.range(1, 100000)
    some b in numbers.range(1, 100000)
    a * b < 0
}

graph_of(n) := {x: numbers.range(1, n) | some x in numbers.range(1, n)}
"#;

/// By name, what stands in the body of a rule that would allow.
fn attacks() -> Vec<(&'static str, String)> {
    let mut attacks: Vec<_> = [
        ("loop", "count([1 | some a in numbers.range(1, 100000); some b in numbers.range(1, 100000); a * b < 0]) == 0"),
        ("negated_loop", "not endless"),
        ("loop_over_builtins", "every x in numbers.range(1, 1000000) { regex.match(sprintf(\"a%d.*\", [x]), sprintf(\"a%db\", [x])) }"),
        ("range", "count(numbers.range(1, 1000000000)) > 0"),
        ("range_step", "count(numbers.range_step(1, 1000000000, 1)) > 0"),
        ("cidr_expand", "count(net.cidr_expand(\"10.0.0.0/6\")) > 0"),
        ("sprintf_width", "count(sprintf(concat(\"\", [\"%999999d\" | some x in numbers.range(1, 1000)]), numbers.range(1, 1000))) > 0"),
        ("sprintf_many", "count(sprintf(concat(\"\", [\"%4000d\" | some x in numbers.range(1, 100000)]), numbers.range(1, 100000))) > 0"),
        ("shift", "bits.lsh(1, 4000000000) > 0"),
        ("empty_count", "strings.count(text, \"\") < 0"),
        ("empty_subset", "not object.subset([1, 2], [])"),
        ("layout", "time.parse_ns(\"2006-01-02ä\", text) > 0"),
        ("number_key", "is_number(body)"),
        ("number_key_within", "is_number(body.x)"),
        ("number_key_in_yaml", "is_number(yaml.unmarshal(\"$serde_json::private::Number: '1'\"))"),
        ("number_key_unmarshalled", "is_number(json.unmarshal(sprintf(`{\"%s\": \"1\"}`, [\"$serde_json::private::Number\"])))"),
        ("deep_body", "is_array(body)"),
        ("regex_size", "regex.match(`((((a{1,100}){1,100}){1,100}){1,100})b`, text)"),
        ("regex_backtracking", "regex.match(`(a|a|aa)*(a|a|aa)*(a|a|aa)*b`, text)"),
        ("regex_states", "regex.match(`[ab]*a[ab]{1000}[ab]{1000}[ab]{1000}[ab]{1000}[^ab]$`, concat(\"\", [text | some x in numbers.range(1, 60)]))"),
        ("regex_many", "every x in numbers.range(1, 100000) { regex.match(sprintf(`[a-%d]{1,50}.*x?`, [x]), text) }"),
        ("regex_all", "count(regex.find_n(\"\", concat(\"\", [text | some x in numbers.range(1, 10000)]), -1)) > 0"),
        ("glob_alternatives", "glob.match(sprintf(\"{%s}b\", [concat(\",\", [sprintf(\"%d*\", [x]) | some x in numbers.range(1, 20000)])]), [], text)"),
        ("glob_nested", "glob.match(concat(\"\", [\"{a,\" | some x in numbers.range(1, 20000)]), [], text)"),
        ("glob_stars", "glob.match(concat(\"\", [\"*a\" | some x in numbers.range(1, 2000)]), [], concat(\"\", [text, \"b\"]))"),
        ("paths", "count(graph.reachable_paths(graph_of(16), {1})) > 0"),
        ("split", "count(split(concat(\"\", [text | some x in numbers.range(1, 15000)]), \"\")) > 0"),
        ("exponent", "to_number(\"1e1000000000\") > 0"),
        ("units", "units.parse_bytes(\"1e1000000000\") > 0"),
        ("comprehensions", "count([1 | some a in [x | some x in numbers.range(1, 1000000)]; some b in [x | some x in numbers.range(1, 1000000)]]) > 0"),
        ("texts", "count([x | some n in numbers.range(1, 1000); x := concat(\"\", [text | some y in numbers.range(n, n + 10000)])]) > 0"),
        ("products", "count({[a, b, c]: text | some a in numbers.range(1, 1000); some b in numbers.range(1, 1000); some c in numbers.range(1, 1000)}) > 0"),
        ("template", "strings.render_template(\"{{range 1000000}}{{range 1000000}}{{end}}{{end}}\", {}) == \"\""),
        ("walk", "count([1 | walk([[graph_of(100) | some x in numbers.range(1, 1000)] | some y in numbers.range(1, 1000)], [p, v])]) > 0"),
    ]
    .map(|(name, body)| (name, body.to_owned()))
    .into();
    let aliases: String = (1..30).map(|n| format!("a{n}: &a{n} [{}]\\n", vec![format!("*a{}", n - 1); 10].join(","))).collect();
    attacks.push(("yaml_aliases", format!("count(yaml.unmarshal(\"a0: &a0 [x,x,x,x,x,x,x,x,x,x]\\n{aliases}\")) > 0")));
    attacks.push(("yaml_valid", format!("yaml.is_valid(\"a0: &a0 [x,x,x,x,x,x,x,x,x,x]\\n{aliases}\")")));
    for (name, first, step) in [
        ("doubled_array", "numbers.range(1, 10)", "array.concat(X, X)"),
        ("doubled_by_comprehension", "numbers.range(1, 10)", "[v | some v in X; some w in [1, 2]]"),
        ("doubled_by_flatten", "numbers.range(1, 10)", "array.flatten([X, X])"),
        ("doubled_set", "{1}", "{[n, v] | some v in X; some n in [1, 2]}"),
        ("doubled_objects", "{\"a\": 1}", "object.union(X, {sprintf(\"%v%d\", [k, n]): v | some k, v in X; some n in [1, 2]})"),
        ("doubled_text", "text", "concat(\"\", [X, X])"),
        ("doubled_by_sprintf", "text", "sprintf(\"%s%s\", [X, X])"),
        ("doubled_by_replace", "text", "replace(X, \"a\", \"aa\")"),
        ("doubled_by_itself", "text", "replace(X, \"a\", X)"),
        ("doubled_by_replace_n", "text", "strings.replace_n({\"a\": \"aa\"}, X)"),
        ("doubled_by_regex", "text", "regex.replace(X, \"a\", \"aa\")"),
        ("doubled_by_hex", "text", "hex.encode(X)"),
        ("doubled_by_base64", "text", "base64.encode(X)"),
        ("doubled_by_marshal", "`\"\\\"`", "json.marshal(X)"),
        ("doubled_by_marshal_of_arrays", "[text]", "[json.marshal([X, X])]"),
        ("doubled_by_yaml", "[text]", "[yaml.marshal([X, X])]"),
        ("doubled_by_urlquery", "text", "urlquery.encode(concat(\"\", [X, X]))"),
        ("doubled_by_interpolation", "text", "$\"{X}{X}\""),
        ("doubled_number", "bits.lsh(1, 4000)", "X * X"),
        ("doubled_by_format", "text", "format_int(to_number(sprintf(\"1%s\", [replace(X, \"a\", \"0\")])), 2)"),
    ] {
        attacks.push((name, doubled(first, step)));
    }
    attacks
}

/// `step` fifty times on what it made before, written out.
fn doubled(first: &str, step: &str) -> String {
    let mut body = format!("x0 := {first}\n");
    for n in 0..50 {
        writeln!(body, "    x{} := {}", n + 1, step.replace('X', &format!("x{n}"))).unwrap();
    }
    body + "    x50"
}

fn policy() -> String {
    let mut policy = ORDINARY.to_owned();
    for n in 0..110 {
        writeln!(policy, "c{n} if c{}", n + 1).unwrap();
    }
    policy.push_str("c110 if http.method == \"TRACE\"\n");
    for (name, body) in attacks() {
        writeln!(policy, "\nallow if {{\n    input.parsed_path == [\"attack\", \"{name}\"]\n    {body}\n}}").unwrap();
    }
    policy
}

/// The request of an attack; its body is an attack of its own.
fn attack(name: &str, certificate: &str) -> Check {
    let body = match name {
        "number_key_within" => r#"{"x": {"$serde_json::private::Number": "1"}}"#.to_owned(),
        "deep_body" => "[".repeat(100_000) + &"]".repeat(100_000),
        "number_key" => r#"{"$serde_json::private::Number": "1"}"#.to_owned(),
        _ => "{}".to_owned(),
    };
    let check = Check::http("POST", &format!("/attack/{name}")).header("x-text", &"a".repeat(1_000));
    check.body("application/json", &body).certificate(certificate)
}

/// Peak resident memory of the process in MiB.
fn peak(doorward: &Doorward) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", doorward.id())).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap() / 1024
}

/// Makes one attack after the other, beginning at `first`; the ids of the decisions by name.
async fn attack_all(
    channel: Channel,
    certificate: String,
    names: Vec<&'static str>,
    first: usize,
) -> Vec<(&'static str, String)> {
    let mut ids = Vec::new();
    for name in names.iter().cycle().skip(first).take(names.len()) {
        let began = Instant::now();
        let answer = Answer::read(check(channel.clone(), attack(name, &certificate).0).await.unwrap());
        assert_eq!(answer.code, 7, "{name}: {answer:?}");
        assert!(began.elapsed() < ANSWERED, "{name} took {:?}", began.elapsed());
        ids.push((*name, answer.metadata["decision_id"].as_str().unwrap().to_owned()));
    }
    ids
}

/// Asks what is allowed and what is not in turns until `stop`; how often it was allowed.
async fn ordinary(channel: Channel, certificate: String, stop: tokio::sync::oneshot::Receiver<()>) -> u32 {
    let mut allowed = 0;
    let mut stop = std::pin::pin!(stop);
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    loop {
        for (method, code) in [("GET", 0), ("POST", 7)] {
            let check = Check::http(method, "/read/1").certificate(&certificate);
            let answer = Answer::read(self::check(channel.clone(), check.0).await.unwrap());
            assert_eq!(answer.code, code, "{method}: {answer:?}");
            allowed += u32::from(answer.code == 0);
        }
        tokio::select! {
            _ = &mut stop => return allowed,
            _ = pause.tick() => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attacks_are_denied_and_harm_nobody_else() {
    let policy = policy();
    let mut doorward = Doorward::start(&Setup { policy: Some(&policy), policy_lines: LIMITS, top: TOP, ..Setup::default() });
    doorward.wait_ready();
    let certificate = |id: &str| doorward.ca.svid(&format!("spiffe://example.org/{id}")).url_encoded();
    let (reader, attacker) = (certificate("reader"), certificate("attacker"));
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let others = tokio::spawn(ordinary(doorward.channel().await, reader.clone(), stopped));

    let names: Vec<_> = attacks().into_iter().map(|(name, _)| name).chain(["chain"]).collect();
    let mut attackers = tokio::task::JoinSet::new();
    for number in 0..ATTACKERS {
        let first = names.len() * number / ATTACKERS;
        attackers.spawn(attack_all(doorward.channel().await, attacker.clone(), names.clone(), first));
    }
    let revision = doorward.readyz()["policy"]["revision"].clone();
    for recursion in [
        "f(x) := f(x - 1)",
        "p if q\nq if p",
        "r[x] if { some x in [\"a\"]; data.envoy.authz[x] }",
        "deep := D".replace('D', &("[".repeat(10_000) + &"]".repeat(10_000))).as_str(),
    ] {
        doorward.replace_policy(&format!("{policy}\n{recursion}\n"));
        let policy = doorward.readyz()["policy"].clone();
        assert_eq!(policy["revision"], revision, "{recursion:.100}");
        let code = policy["last_error"]["problems"][0]["code"].clone();
        assert!(code == "recursion" || code == "too_deep", "{recursion:.100}: {policy}");
    }

    let ids = attackers.join_all().await.concat();
    stop.send(()).unwrap();
    let allowed = others.await.unwrap();
    let last = Answer::read(doorward.check(Check::http("GET", "/read/1").certificate(&reader).0).await.unwrap());
    assert_eq!(last.code, 0, "{last:?}");

    let mut limited = 0.0;
    for (name, id) in &ids {
        let reason = doorward.record(id)["body"]["reason"].as_str().unwrap().to_owned();
        assert!(reason != "policy" || HARMLESS.contains(name), "{name} was answered");
        assert!(
            ["policy", "policy_timeout", "policy_limit", "request_parse_error"].contains(&reason.as_str()),
            "{name}: {reason}"
        );
        limited += f64::from(u8::from(reason == "policy_limit"));
    }
    assert_eq!(ids.len(), names.len() * ATTACKERS);
    assert_eq!(doorward.metric("doorward_decisions_total", &["decision=\"allow\""]), f64::from(allowed) + 1.0);
    assert_eq!(doorward.metric("doorward_policy_limit_total", &["limit=\"growth\"", "policy.rego:"]), limited);
    assert!(limited > 20.0, "{limited}");
    assert!(doorward.metric("doorward_policy_limit_total", &["limit=\"time\""]) > 10.0);
    eprintln!("{} attacks, {limited} at a limit of growth, {allowed} calls allowed, at most {} MiB", ids.len(), peak(&doorward));
    assert!(peak(&doorward) < RESIDENT_MIB);
    assert!(doorward.stop().success());
}
