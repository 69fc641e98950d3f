//! Every row of the facts about gRPC bodies, over a service that is described by hand.

use proptest::prelude::*;
use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    MethodDescriptorProto, ServiceDescriptorProto,
    field_descriptor_proto::{Label, Type},
};
use serde_json::json;

use super::*;

/// `shop.Orders` with a method of each kind; `Order` has a field of each kind that protojson treats in its own way.
pub fn descriptors() -> Vec<u8> {
    let of = |name: &str, number, kind: Type, type_name: &str| FieldDescriptorProto {
        type_name: Some(type_name.to_owned()),
        ..field(name, number, kind)
    };
    let order = DescriptorProto {
        name: Some("Order".to_owned()),
        field: vec![
            field("item_name", 1, Type::String),
            field("count", 2, Type::Int32),
            field("total_cents", 3, Type::Int64),
            field("price", 4, Type::Double),
            field("seal", 5, Type::Bytes),
            of("state", 6, Type::Enum, ".shop.State"),
            FieldDescriptorProto { label: Some(Label::Repeated.into()), ..of("parts", 7, Type::Message, ".shop.Order") },
            of("at", 8, Type::Message, ".google.protobuf.Timestamp"),
            field("rush", 9, Type::Bool),
        ],
        ..DescriptorProto::default()
    };
    let state = EnumDescriptorProto {
        name: Some("State".to_owned()),
        value: ["UNKNOWN", "OPEN"]
            .into_iter()
            .zip(0..)
            .map(|(name, number)| EnumValueDescriptorProto {
                name: Some(name.to_owned()),
                number: Some(number),
                ..EnumValueDescriptorProto::default()
            })
            .collect(),
        ..EnumDescriptorProto::default()
    };
    let method = |name: &str, client, server| MethodDescriptorProto {
        name: Some(name.to_owned()),
        input_type: Some(".shop.Order".to_owned()),
        output_type: Some(".shop.Order".to_owned()),
        client_streaming: Some(client),
        server_streaming: Some(server),
        ..MethodDescriptorProto::default()
    };
    let shop = FileDescriptorProto {
        name: Some("shop.proto".to_owned()),
        package: Some("shop".to_owned()),
        dependency: vec!["google/protobuf/timestamp.proto".to_owned()],
        message_type: vec![order],
        enum_type: vec![state],
        service: vec![ServiceDescriptorProto {
            name: Some("Orders".to_owned()),
            method: vec![method("Place", false, false), method("Watch", false, true), method("Upload", true, false)],
            ..ServiceDescriptorProto::default()
        }],
        syntax: Some("proto3".to_owned()),
        ..FileDescriptorProto::default()
    };
    let global = DescriptorPool::global();
    let timestamp = global.get_file_by_name("google/protobuf/timestamp.proto").expect("known to the library");
    FileDescriptorSet { file: vec![timestamp.file_descriptor_proto().clone(), shop, strict()] }.encode_to_vec()
}

fn field(name: &str, number: i32, kind: Type) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(Label::Optional.into()),
        r#type: Some(kind.into()),
        ..FieldDescriptorProto::default()
    }
}

/// `strict.S/Do` takes a message of the old syntax with a required field.
fn strict() -> FileDescriptorProto {
    FileDescriptorProto {
        name: Some("strict.proto".to_owned()),
        package: Some("strict".to_owned()),
        message_type: vec![DescriptorProto {
            name: Some("Must".to_owned()),
            field: vec![FieldDescriptorProto { label: Some(Label::Required.into()), ..field("name", 1, Type::String) }],
            ..DescriptorProto::default()
        }],
        service: vec![ServiceDescriptorProto {
            name: Some("S".to_owned()),
            method: vec![MethodDescriptorProto {
                name: Some("Do".to_owned()),
                input_type: Some(".strict.Must".to_owned()),
                output_type: Some(".strict.Must".to_owned()),
                ..MethodDescriptorProto::default()
            }],
            ..ServiceDescriptorProto::default()
        }],
        syntax: Some("proto2".to_owned()),
        ..FileDescriptorProto::default()
    }
}

fn pool() -> DescriptorPool {
    DescriptorPool::decode(descriptors().as_slice()).expect("a sound set")
}

fn frame(message: &[u8]) -> Vec<u8> {
    [&[0], u32::try_from(message.len()).unwrap().to_be_bytes().as_slice(), message].concat()
}

fn read(path: &str, frames: &[u8]) -> Result<Body, String> {
    let path: Vec<_> = path.split('/').map(str::to_owned).collect();
    parse(&pool(), &path, frames).map_err(|error| error.to_string())
}

#[test]
fn d26_the_first_message_is_shown_as_protojson() {
    // name "tea", count 3, total_cents 900, price 3.0, seal ff, state OPEN, one empty part, time 1 s.
    let whole = [
        b"\x0a\x03tea\x10\x03\x18\x84\x07".as_slice(),
        b"\x21\0\0\0\0\0\0\x08\x40",
        b"\x2a\x01\xff\x30\x01\x3a\0",
        b"\x42\x02\x08\x01",
    ]
    .concat();
    let shown = json!({
        "itemName": "tea", "count": 3, "totalCents": "900", "price": 3, "seal": "/w==", "state": "OPEN", "parts": [{}],
        "at": "1970-01-01T00:00:01Z",
    });
    assert_eq!(read("shop.Orders/Place", &frame(&whole)), Ok(Body::Parsed(shown)));
    for (what, path, frames, expected) in [
        ("empty", "shop.Orders/Place", frame(b""), Body::Parsed(json!({}))),
        ("defaults are left out", "shop.Orders/Place", frame(b"\x0a\0\x10\0"), Body::Parsed(json!({}))),
        ("unknown enum value", "shop.Orders/Place", frame(b"\x30\x07"), Body::Parsed(json!({"state": 7}))),
        ("unknown field", "shop.Orders/Place", frame(b"\xa2\x06\x01x"), Body::Parsed(json!({}))),
        ("server stream", "shop.Orders/Watch", frame(b"\x10\x01"), Body::Parsed(json!({"count": 1}))),
        (
            "second message",
            "shop.Orders/Place",
            [frame(b"\x10\x01"), frame(b"\x10\x02")].concat(),
            Body::Parsed(json!({"count": 1})),
        ),
        ("half a second one", "shop.Orders/Place", [frame(b"\x10\x01"), vec![0, 0]].concat(), Body::Parsed(json!({"count": 1}))),
        ("client stream", "shop.Orders/Upload", frame(b"\x10\x01"), Body::None),
        ("unknown method", "shop.Orders/Take", frame(b"\x10\x01"), Body::None),
        ("unknown service", "shop.Others/Place", frame(b"\x10\x01"), Body::None),
        ("compressed", "shop.Orders/Place", b"\x01\0\0\0\x01x".to_vec(), Body::None),
        ("short", "shop.Orders/Place", b"\0\0\0\0\x09\x10\x01".to_vec(), Body::Truncated),
        ("far too short", "shop.Orders/Place", b"\0\xff\xff\xff\xff".to_vec(), Body::Truncated),
        ("short, unknown method", "shop.Orders/Take", b"\0\0\0\0\x09\x10\x01".to_vec(), Body::Truncated),
    ] {
        assert_eq!(read(path, &frames), Ok(expected), "{what}");
    }
}

#[test]
fn d26_what_is_no_call_is_an_error() {
    for (path, frames, error) in [
        ("shop.Orders", frame(b""), "path of 1 segments, a gRPC call has two"),
        ("v1/shop.Orders/Place", frame(b""), "path of 3 segments, a gRPC call has two"),
        ("shop.Orders/Place", vec![0, 0, 0, 0], "less than the 5 bytes before a message"),
        ("shop.Orders/Place", frame(b"\x0a\x05tea"), "not a `shop.Order`"),
        ("shop.Orders/Place", frame(b"\x0a\x01\xff"), "not a `shop.Order`"),
        ("shop.Orders/Place", frame(b"\x12\x01x"), "not a `shop.Order`"),
        ("strict.S/Do", frame(b""), "`strict.Must` without its required field `name`"),
        ("shop.Orders/Place", frame(&vec![0; MAX_MESSAGE + 1]), "message of 1048577 bytes, the limit is 1048576"),
    ] {
        assert_eq!(read(path, &frames), Err(error.to_owned()), "{path}");
    }
    // A time after the year 9999 has no RFC 3339 form.
    let late = read("shop.Orders/Place", &frame(b"\x42\x08\x08\xff\xff\xff\xff\xff\xff\x7f"));
    assert!(late.as_ref().is_err_and(|error| error.contains("no JSON form")), "{late:?}");
}

#[test]
fn deep_nesting_is_an_error_and_not_a_crash() {
    let deep = |levels: usize| {
        (0..levels).fold(Vec::new(), |inner, _| {
            let mut outer = vec![0x3a];
            prost::encoding::encode_varint(inner.len() as u64, &mut outer);
            outer.extend(inner);
            outer
        })
    };
    assert!(read("shop.Orders/Place", &frame(&deep(50))).is_ok());
    assert!(read("shop.Orders/Place", &frame(&deep(5_000))).is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), framed in any::<bool>()) {
        if framed {
            bytes = frame(&bytes);
        }
        for path in ["shop.Orders/Place", "strict.S/Do"] {
            let _ = read(path, &bytes);
        }
    }
}
