//! The messages and services of `proto/doorward/v1`, generated, and their JSON form: what a policy is shown of a call, and
//! what a command prints.

use std::sync::LazyLock;

use prost::Name;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use prost_types::Timestamp;
use serde_json::Value;

use crate::clock::Now;

#[allow(clippy::all, clippy::restriction, clippy::nursery, clippy::pedantic, unused_qualifications, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("doorward.v1");
}

static DESCRIPTORS: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(include_bytes!(concat!(env!("OUT_DIR"), "/doorward.bin")).as_slice()).ok());

/// An instant, as messages tell it.
pub fn timestamp(at: Now) -> Option<Timestamp> {
    let since = at.since_epoch();
    Some(Timestamp { seconds: i64::try_from(since.as_secs()).ok()?, nanos: i32::try_from(since.subsec_nanos()).ok()? })
}

/// Every method, as `doorward.v1.Service/Method`.
pub fn methods() -> impl Iterator<Item = String> {
    let services = DESCRIPTORS.iter().flat_map(DescriptorPool::services);
    services.flat_map(|service| {
        let names: Vec<_> = service.methods().map(|method| format!("{}/{}", service.full_name(), method.name())).collect();
        names
    })
}

/// A message in the JSON of protobuf, with the names that stand in the proto file. None if its descriptor is missing, which
/// a build that passes its tests does not have.
pub fn to_json<M: Name>(message: &M) -> Option<Value> {
    let descriptor = DESCRIPTORS.as_ref()?.get_message_by_name(&M::full_name())?;
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).ok()?;
    let options = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false);
    message.serialize_with_options(serde_json::value::Serializer, &options).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_become_json() {
        let at = Some(Timestamp { seconds: 1_800_000_000, nanos: 5 });
        let decision =
            v1::Decision { id: "i".to_owned(), at, enforced: true, policy_reason: "r".to_owned(), ..v1::Decision::default() };
        let expected = json!({"id": "i", "at": "2027-01-15T08:00:00.000000005Z", "enforced": true, "policy_reason": "r"});
        assert_eq!(to_json(&decision), Some(expected));
        let missed = v1::FollowResponse { event: Some(v1::follow_response::Event::Missed(7)) };
        assert_eq!(to_json(&missed), Some(json!({"missed": 7})));
        assert_eq!(to_json(&v1::FollowRequest::default()), Some(json!({})));
    }

    #[test]
    fn every_method_is_known() {
        let methods: Vec<_> = methods().collect();
        assert!(methods.contains(&"doorward.v1.TailService/Follow".to_owned()), "{methods:?}");
    }
}
