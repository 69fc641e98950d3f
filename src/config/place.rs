//! `self`: where this doorward stands, as those who run it name it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Listener, units::PlaceName};

/// Where this doorward stands: shown to policies as `input.self`, and held against where a credential or a session was seen
/// before. Nothing here comes from a request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Place {
    /// Like `production`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<PlaceName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<PlaceName>,
    /// Like `eu-west-1a`. A credential or a session that turns up in a second zone is noticed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<PlaceName>,
}

impl Place {
    /// The members of `input.self` that say it, for one listener.
    pub fn pairs<'a>(&'a self, listener: Option<&'a Listener>) -> [(&'static str, Option<&'a str>); 3] {
        let zone = listener.and_then(|listener| listener.zone.as_ref()).or(self.zone.as_ref());
        [("environment", self.environment.as_ref()), ("cluster", self.cluster.as_ref()), ("zone", zone)]
            .map(|(key, name)| (key, name.map(PlaceName::as_str)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_may_be_of_another_zone() {
        let place: Place = serde_saphyr::from_str("{environment: production, zone: eu-1}").unwrap();
        let listener = |text: &str| serde_saphyr::from_str::<Listener>(text).unwrap();
        for (text, zone) in [("{}", "eu-1"), ("{zone: us-1}", "us-1")] {
            let expected = [("environment", Some("production")), ("cluster", None), ("zone", Some(zone))];
            assert_eq!(place.pairs(Some(&listener(text))), expected);
        }
        assert_eq!(Place::default().pairs(Some(&listener("{zone: us-1}"))).last(), Some(&("zone", Some("us-1"))));
        assert_eq!(place.pairs(None).last(), Some(&("zone", Some("eu-1"))));
    }
}
