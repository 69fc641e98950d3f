//! Why a decision was made: its record, and the policy that made it asked once more. What cannot be had is said, and so is
//! whatever makes the new answer differ from the old.

use std::sync::Arc;

use serde_json::Value;
use tokio::{sync::Semaphore, task::spawn_blocking};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    guard::Guard,
    line::Line,
    proto::v1::{Evaluation, ExplainRequest, ExplainResponse, Fact, RuleLine, explain_service_server::ExplainService},
};
use crate::{
    authorizer::{
        Settings,
        trial::{Answered, Asked, answer},
    },
    policy::{Former, MAX_SETS, PolicyStore},
    record::{
        find::Finder,
        kept::{self, Kept},
        recent,
    },
    verdict::Reason,
};

/// Explanations at a time: each may read files and evaluate for seconds.
const EXPLANATIONS: usize = 2;

/// Reasons that are the policy's: with any other the decision was made beside it.
const OF_POLICY: [Reason; 8] = [
    Reason::Policy,
    Reason::UndefinedDecision,
    Reason::InvalidDecision,
    Reason::InvalidResult,
    Reason::PolicyError,
    Reason::PolicyTimeout,
    Reason::PolicyLimit,
    Reason::PolicyPanic,
];

pub struct Explain {
    guard: Arc<Guard>,
    sources: Arc<Sources>,
    explanations: Arc<Semaphore>,
}

/// Where everything comes from.
struct Sources {
    finder: Finder,
    policies: Arc<PolicyStore>,
}

impl Explain {
    pub fn new(guard: Arc<Guard>, finder: Finder, policies: Arc<PolicyStore>) -> Self {
        let sources = Arc::new(Sources { finder, policies });
        Self { guard, sources, explanations: Arc::new(Semaphore::new(EXPLANATIONS)) }
    }
}

#[tonic::async_trait]
impl ExplainService for Explain {
    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let ExplainRequest { id } = self.guard.admit(request).await?.message;
        let id = id.parse().map_err(|_| Status::invalid_argument("`id` is no decision id"))?;
        let permit = Arc::clone(&self.explanations)
            .try_acquire_owned()
            .map_err(|_| Status::resource_exhausted(format!("{EXPLANATIONS} others are being explained; try again")))?;
        let sources = Arc::clone(&self.sources);
        let explained = spawn_blocking(move || {
            let _permit = permit;
            sources.explain(id)
        });
        explained.await.map_err(|_| Status::internal("the explanation broke off"))?.map(Response::new)
    }
}

impl Sources {
    fn explain(&self, id: Uuid) -> Result<ExplainResponse, Status> {
        let found =
            self.finder.find(id).map_err(|error| Status::unavailable(format!("the record files cannot be read: {error}")))?;
        let (line, place) = found.ok_or_else(|| {
            let (lines, mib) = (recent::MAX_LINES, recent::MAX_BYTES >> 20);
            Status::not_found(format!(
                "no record of this decision: it is neither among the last {lines} ({mib} MiB) in memory nor in a record file that is kept"
            ))
        })?;
        let broken = || Status::data_loss("the record cannot be read");
        let recorded = Line::read(&line).ok_or_else(broken)?;
        let record: Value = serde_json::from_slice(&line).map_err(|_| broken())?;
        let mut notes = Vec::new();
        let evaluation = self.again(&record, &mut notes);
        Ok(ExplainResponse {
            recorded: Some(recorded.into()),
            record: String::from_utf8_lossy(&line).into_owned(),
            source: place.as_str().to_owned(),
            evaluation,
            notes,
        })
    }

    /// The same question to the policy that answered it; none where that cannot be, with a note why.
    fn again(&self, record: &Value, notes: &mut Vec<String>) -> Option<Evaluation> {
        let body = record.get("body")?;
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let Some(policy) = body.get("policy") else {
            let reason = text(body, "reason").unwrap_or_default();
            notes.push(format!("no policy was asked: the call was denied before, for `{reason}`"));
            return None;
        };
        let (digest, path) = (text(policy, "digest")?, text(policy, "path")?);
        let kept = match kept::read(record) {
            Ok(kept) => kept,
            Err(error) => {
                notes.push(format!("the policy cannot be asked again: this {error}"));
                return None;
            }
        };
        let Some(former) = self.policies.former(&digest, &path) else {
            let revision = kept.revision.unwrap_or_default();
            notes.push(format!(
                "the policy that decided (revision `{revision}`) is gone: the last {MAX_SETS} are kept, or fewer large ones, until a restart"
            ));
            return None;
        };
        Some(evaluate(&kept, text(body, "rule").as_deref(), &former, notes))
    }
}

fn evaluate(kept: &Kept, rule: Option<&str>, former: &Former, notes: &mut Vec<String>) -> Evaluation {
    let asked = Asked::Document { input: &kept.input, drawn: &kept.drawn };
    let Answered { outcome, result, evaluated, .. } =
        answer(&asked, &former.opened, &Settings::of_policy(&former.config), kept.at);
    let explanation = evaluated.map(|evaluated| evaluated.explanation).unwrap_or_default();
    let said = outcome.answer.as_ref();
    let new_rule = said.and_then(|said| said.rule.clone());
    let (decision, reason) = (outcome.decision.as_str(), outcome.reason.as_str());
    let same = (decision, reason, new_rule.as_deref()) == (kept.decision.as_str(), kept.reason.as_str(), rule);
    let hidden = kept.masked.join(", ");
    if !hidden.is_empty() {
        notes.push(format!("not as they were, in the record and so here: {hidden}"));
    }
    match (same, OF_POLICY.iter().any(|reason| reason.as_str() == kept.reason), hidden.is_empty()) {
        (true, ..) => {}
        (false, false, _) => notes.push(format!(
            "the policy says `{decision}`; the call was decided beside it, as `{}` for `{}`",
            kept.decision, kept.reason
        )),
        (false, true, false) => notes.push(format!(
            "what was masked or left out changed the answer: it was `{}` (`{}`), and is `{decision}` (`{reason}`) now",
            kept.decision, kept.reason
        )),
        (false, true, true) => notes.push(format!(
            "the answer came out otherwise: it was `{}` (`{}`), and is `{decision}` (`{reason}`) now",
            kept.decision, kept.reason
        )),
    }
    Evaluation {
        decision: decision.to_owned(),
        reason: reason.to_owned(),
        rule: new_rule.unwrap_or_default(),
        policy_reason: said.and_then(|said| said.reason.clone()).unwrap_or_default(),
        detail: outcome.detail.clone().unwrap_or_default(),
        result: result.map(|result| result.to_string()).unwrap_or_default(),
        same,
        lines: explanation.lines.into_iter().map(|line| RuleLine { file: line.file, line: line.line, text: line.text }).collect(),
        facts: explanation
            .facts
            .into_iter()
            .map(|fact| Fact { path: fact.path, value: fact.value.unwrap_or_default() })
            .collect(),
        prints: explanation.prints,
    }
}
