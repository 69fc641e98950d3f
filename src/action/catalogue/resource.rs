//! What an action is done to: where its id and tenant stand in a request. A value that is there twice is none, because the
//! server may take the other one.

use std::{hash::BuildHasher as _, sync::Arc};

use foldhash::quality::FixedState;
use serde::Deserialize;
use serde_json::Value;

use super::{
    super::{Resource, mcp::Call},
    document::Segment,
};
use crate::request::{Body, Http};

const MISSING: &str = "resource_missing";
const AMBIGUOUS: &str = "resource_ambiguous";

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    r#type: Arc<str>,
    id: Option<Place>,
    tenant: Option<Place>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Place {
    Text(String),
    In(In),
}

/// Where a value stands.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "lowercase")]
enum In {
    /// A named segment of the path.
    Param(Arc<str>),
    Query(String),
    Header(String),
    /// A member of the JSON body, `a.b.c`.
    Body(String),
    /// An argument of an MCP call, likewise.
    Arg(String),
}

impl Rule {
    /// A named segment that the rule asks for and the path does not have.
    pub(super) fn missing_param(&self, segments: &[Segment]) -> Option<&str> {
        let places = self.id.iter().chain(&self.tenant);
        let mut params = places.filter_map(|place| match place {
            Place::In(In::Param(name)) => Some(name),
            _ => None,
        });
        params.find(|name| !segments.iter().any(|segment| segment.name.as_ref() == Some(name))).map(|name| &**name)
    }

    pub(super) fn read(&self, params: &[(Arc<str>, String)], http: &Http, call: Option<&Call>) -> Result<Resource, &'static str> {
        let value = |place: &Option<Place>| match place {
            None => Ok(None),
            Some(Place::Text(text)) => Ok(Some(text.clone())),
            Some(Place::In(place)) => place.value(params, http, call).map(Some),
        };
        let (id, tenant) = (value(&self.id)?, value(&self.tenant)?);
        let hash = FixedState::with_seed(0).hash_one((&self.r#type, &id, &tenant));
        Ok(Resource { kind: Arc::clone(&self.r#type), id, tenant, hash })
    }
}

impl In {
    fn value(&self, params: &[(Arc<str>, String)], http: &Http, call: Option<&Call>) -> Result<String, &'static str> {
        match self {
            Self::Param(wanted) => params.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone()).ok_or(MISSING),
            Self::Query(name) => match http.parsed_query.get(name).map(Vec::as_slice) {
                Some([value]) => Ok(value.clone()),
                Some(_) => Err(AMBIGUOUS),
                None => Err(MISSING),
            },
            // Envoy joins several headers of one name with a comma.
            Self::Header(name) => match http.headers.get(&name.to_ascii_lowercase()) {
                Some(value) if value.contains(',') => Err(AMBIGUOUS),
                Some(value) => Ok(value.to_owned()),
                None => Err(MISSING),
            },
            Self::Body(path) => {
                let bytes = if http.raw_body.is_empty() { http.body.as_bytes() } else { &http.raw_body };
                if !matches!(http.parsed_body, Body::Parsed(_)) {
                    return Err(MISSING);
                }
                // Read again, strictly: of two members of one name a server may take either.
                let body = crate::json::strict_object(bytes, 64).map_err(|_| AMBIGUOUS)?;
                below(&Value::Object(body), path)
            }
            Self::Arg(path) => call.map_or(Err(MISSING), |call| below(&call.arguments, path)),
        }
    }
}

fn below(value: &Value, path: &str) -> Result<String, &'static str> {
    match path.split('.').try_fold(value, |value, name| value.get(name)) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        _ => Err(MISSING),
    }
}
