//! gRPC bodies by descriptor: the first message of a call as opa-envoy-plugin shows it, in protojson with camelCase
//! names and defaults left out. Where the descriptors come from is `envoy/descriptors`' business.
//!
//! Two limits are ours, each to the strict side: a message longer than [`MAX_MESSAGE`] is an error, because a decoded
//! byte takes up to a hundred in memory, and so is one nested deeper than a hundred levels.

use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, Kind, MessageDescriptor, ReflectMessage as _, SerializeOptions, Value as Field,
};
use serde_json::{Number, Value, value::Serializer};
use thiserror::Error;

use crate::request::Body;

/// Longest message that is decoded, in bytes.
const MAX_MESSAGE: usize = 1024 * 1024;

/// Why a gRPC body cannot be read.
#[derive(Debug, Error)]
pub enum GrpcError {
    #[error("path of {0} segments, a gRPC call has two")]
    Path(usize),
    #[error("less than the 5 bytes before a message")]
    Short,
    #[error("message of {0} bytes, the limit is {MAX_MESSAGE}")]
    TooLarge(usize),
    #[error("not a `{0}`")]
    Undecodable(String, #[source] prost::DecodeError),
    #[error("`{0}` without its required field `{1}`")]
    Missing(String, String),
    /// A well-known type that holds what JSON cannot say, such as a time before the year 1 or an unknown `Any`.
    #[error("`{0}` has no JSON form")]
    NoJson(String, #[source] serde_json::Error),
}

/// Reads the first message of `frames`, the bytes of a gRPC body: a flag, four bytes of length, the message.
pub fn parse(pool: &DescriptorPool, path: &[String], frames: &[u8]) -> Result<Body, GrpcError> {
    let [service, method] = path else { return Err(GrpcError::Path(path.len())) };
    let Some((&[flag, a, b, c, d], rest)) = frames.split_first_chunk::<5>() else { return Err(GrpcError::Short) };
    if flag != 0 {
        return Ok(Body::None);
    }
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    let Some(message) = rest.get(..length) else { return Ok(Body::Truncated) };
    let Some(kind) = request_of(pool, service, method) else { return Ok(Body::None) };
    if length > MAX_MESSAGE {
        return Err(GrpcError::TooLarge(length));
    }
    decode(kind, message).map(Body::Parsed)
}

/// The message that a method takes; none where the method is unknown, or takes a stream.
fn request_of(pool: &DescriptorPool, service: &str, method: &str) -> Option<MessageDescriptor> {
    let service = pool.get_service_by_name(service)?;
    let method = service.methods().find(|known| known.name() == method)?;
    (!method.is_client_streaming()).then(|| method.input())
}

fn decode(kind: MessageDescriptor, bytes: &[u8]) -> Result<Value, GrpcError> {
    let name = kind.full_name().to_owned();
    let message = DynamicMessage::decode(kind, bytes).map_err(|error| GrpcError::Undecodable(name.clone(), error))?;
    complete(&message)?;
    let shown = message.serialize_with_options(Serializer, &SerializeOptions::new());
    let mut shown = shown.map_err(|error| GrpcError::NoJson(name, error))?;
    plain_numbers(&mut shown);
    Ok(shown)
}

/// Go refuses a message of the old syntax that leaves out a required field; the decoder here does not look. The
/// recursion is bounded by the decoder's own limit.
fn complete(message: &DynamicMessage) -> Result<(), GrpcError> {
    let kind = message.descriptor();
    let missing = kind.fields().find(|field| field.cardinality() == Cardinality::Required && !message.has_field(field));
    if let Some(field) = missing {
        return Err(GrpcError::Missing(kind.full_name().to_owned(), field.name().to_owned()));
    }
    for (field, value) in message.fields() {
        if matches!(field.kind(), Kind::Message(_)) {
            complete_value(value)?;
        }
    }
    Ok(())
}

fn complete_value(value: &Field) -> Result<(), GrpcError> {
    match value {
        Field::Message(message) => complete(message),
        Field::List(items) => items.iter().try_for_each(complete_value),
        Field::Map(entries) => entries.values().try_for_each(complete_value),
        _ => Ok(()),
    }
}

/// Go writes a whole float without a fraction, `3` and not `3.0`; policies that print or compare texts see it.
fn plain_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(whole) = number.as_str().strip_suffix(".0").and_then(|whole| whole.parse::<Number>().ok()) {
                *number = whole;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(plain_numbers),
        Value::Object(members) => members.values_mut().for_each(plain_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
pub mod tests;
