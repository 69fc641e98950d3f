//! The messages and services of `proto/doorward/v1`, generated, and their JSON form: what a policy is shown of a call, and
//! what a command prints.

use std::{sync::LazyLock, time};

use prost::Name;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use prost_types::{Duration, Timestamp};
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

/// An instant that a message tells, in whole seconds: rather one too many. None where it is not written as protobuf wants it,
/// which a policy may have read otherwise.
pub fn seconds(at: Timestamp) -> Option<i64> {
    (0..1_000_000_000).contains(&at.nanos).then(|| at.seconds.saturating_add(i64::from(at.nanos > 0)))
}

/// A time that a message tells; none where it is below zero, or not written as protobuf wants it.
pub fn span(span: Duration) -> Option<time::Duration> {
    let nanos = u32::try_from(span.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(time::Duration::new(u64::try_from(span.seconds).ok()?, nanos))
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
    fn times_are_written_in_one_way() {
        let at = |secs, nanos| seconds(Timestamp { seconds: secs, nanos });
        assert_eq!((at(7, 0), at(7, 1), at(-7, 999_999_999)), (Some(7), Some(8), Some(-6)));
        assert_eq!((at(7, -1), at(7, 1_000_000_000), at(i64::MAX, 1)), (None, None, Some(i64::MAX)));
        let of = |seconds, nanos| span(Duration { seconds, nanos });
        assert_eq!((of(7, 5), of(0, 0)), (Some(time::Duration::new(7, 5)), Some(time::Duration::ZERO)));
        assert_eq!([of(-1, 0), of(1, -1), of(-1, 2_000_000_000), of(1, i32::MAX), of(i64::MIN, i32::MIN)], [None; 5]);
    }

    #[test]
    fn every_method_is_known() {
        let methods: Vec<_> = methods().collect();
        assert!(methods.contains(&"doorward.v1.TailService/Follow".to_owned()), "{methods:?}");
    }
}
