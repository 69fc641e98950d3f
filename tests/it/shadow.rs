//! The shadow: a second policy set that is asked about the same calls and changes no answer.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{
    check::{Answer, Check},
    doorward::{Doorward, Setup},
    eventually,
};

const IN_FORCE: &str =
    "package envoy.authz\nallow := {\"allowed\": input.parsed_path[0] != \"closed\", \"rule\": \"open\", \"headers\": {}}\n";

/// Otherwise about `new`, with other headers about `header`, and without an end about `loop`.
const CANDIDATE: &str = r#"package envoy.authz
path := input.parsed_path[0]
headers["header"] := {"x-user": "s3cr3t-token", "authorization": "Bearer s3cr3t-token"}
default allow := {"allowed": false, "rule": "other"}
allow := {"allowed": true, "rule": "open", "headers": object.get(headers, first, {})} if {
    first := path
    not first in {"closed", "new", "loop"}
}
allow := {"allowed": count(found) == 0, "rule": "endless"} if {
    path == "loop"
    found := [1 | some a in numbers.range(1, 1000); some b in numbers.range(1, 1000); some c in numbers.range(1, 1000); a * b * c == 7]
}
"#;

fn start() -> Doorward {
    let lines = "  shadow: {bundles: [{path: candidate}]}\n  limits: {evaluation: 200ms}\n";
    let doorward = Doorward::start(&Setup { policy: Some(IN_FORCE), policy_lines: lines, ..Setup::default() });
    doorward.wait_ready();
    doorward
}

fn candidate(doorward: &Doorward, text: &str) {
    let folder = doorward.path("candidate");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("policy.rego"), text).unwrap();
}

fn shadows(doorward: &Doorward) -> Vec<Value> {
    doorward.records().into_iter().filter(|record| record["kind"] == "shadow").collect()
}

async fn ask(doorward: &Doorward, path: &str) -> Answer {
    Answer::read(doorward.check(Check::http("GET", path).0).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_tells_where_it_differs_and_changes_nothing() {
    let doorward = start();
    assert_eq!(ask(&doorward, "/new").await.code, 0, "without a candidate the policy in force decides");
    candidate(&doorward, CANDIDATE);
    eventually("the candidate", || doorward.readyz()["shadow"]["revision"].as_str().map(str::to_owned));
    for (path, code) in [("/same", 0), ("/closed", 7), ("/new", 0), ("/header", 0), ("/loop", 0)] {
        let answer = ask(&doorward, path).await;
        assert_eq!(answer.code, code, "{path}");
    }
    eventually("five comparisons", || (doorward.metric("doorward_shadow_compared_total", &[]) >= 5.0).then_some(()));
    let shadows = eventually("four records", || Some(shadows(&doorward)).filter(|shadows| shadows.len() == 4));
    let told: Vec<_> = shadows.iter().map(|record| (&record["body"]["difference"], &record["body"]["shadow"]["rule"])).collect();
    assert_eq!(
        told,
        [
            (&json!("answer"), &json!("other")),
            (&json!("decision"), &json!("other")),
            (&json!("answer"), &json!("open")),
            (&json!("decision"), &Value::Null),
        ]
    );
    let new = &shadows[1]["body"];
    assert_eq!((&new["in_force"]["decision"], &new["shadow"]["decision"]), (&json!("allow"), &json!("deny")));
    assert_ne!(new["in_force"]["policy"]["digest"], new["shadow"]["policy"]["digest"]);
    let decision = doorward.record(new["decision_id"].as_str().unwrap());
    assert_eq!(decision["body"]["input"]["parsed_path"], json!(["new"]));
    assert_eq!(shadows[3]["body"]["shadow"]["reason"], "policy_timeout");
    assert!(!shadows[2].to_string().contains("Bearer s3cr3t"), "results are masked: {}", shadows[2]);
    assert_eq!(doorward.metric("doorward_shadow_differences_total", &["rule=\"other\"", "result=\"decision\""]), 1.0);
    assert_eq!(doorward.metric("doorward_shadow_compared_total", &["result=\"same\""]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_that_does_not_load_is_told_and_leaves_all_as_it_is() {
    let doorward = start();
    candidate(&doorward, "package envoy.authz\nallow if {");
    eventually("the refusal", || doorward.readyz()["shadow"]["last_error"].as_object().map(|_| ()));
    assert_eq!(doorward.get("/readyz").0, 200);
    assert_eq!(ask(&doorward, "/new").await.code, 0);
    assert!(shadows(&doorward).is_empty());
}
