//! `uri.parse` and `uri.is_valid`, and URIs of requests and certificates, by the rules of Go's `net/url`.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use regorus::Value;
use serde_json::{Value as Json, json};

use super::{Builtin, Fault, text_operand};

pub(super) const URI: &[Builtin] =
    &[Builtin { name: "uri.parse", arity: 1, run: parse }, Builtin { name: "uri.is_valid", arity: 1, run: is_valid }];

fn is_valid(args: &[Value]) -> Result<Value, Fault> {
    Ok(Value::Bool(text_operand(args, 0).is_ok_and(|text| !text.is_empty() && read(text).is_ok())))
}

fn parse(args: &[Value]) -> Result<Value, Fault> {
    let text = text_operand(args, 0)?;
    let parts = read(text).map_err(|why| Fault(format!("parse {text:?}: {why}")))?;
    Ok(Value::from(parts.into_iter().map(|(key, value)| (Value::from(key), Value::from(value))).collect::<BTreeMap<_, _>>()))
}

/// Where a request goes.
pub(super) struct Target {
    /// With its port.
    pub(super) host: String,
    /// As it is escaped on the wire.
    pub(super) path: String,
    pub(super) query: String,
}

pub(super) fn target(text: &str) -> Result<Target, String> {
    read(text)?;
    let (rest, _) = text.split_once('#').unwrap_or((text, ""));
    let (_, rest) = scheme(rest)?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.strip_prefix("//").unwrap_or_default();
    let authority = authority.split('/').next().unwrap_or_default();
    let path = rest.strip_prefix("//").map_or(rest, |rest| rest.strip_prefix(authority).unwrap_or_default());
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    // What is escaped as it may be stays as it is.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@[]/%".contains(&byte);
    let path = if path.bytes().all(plain) { path.to_owned() } else { escape(&unescape(path)?) };
    Ok(Target { host: unescape(host)?, path, query: query.to_owned() })
}

/// As Go's JSON shows a `url.URL`.
pub(super) fn show(text: &str) -> Result<Json, String> {
    let parts: BTreeMap<&str, String> = read(text)?.into_iter().collect();
    let part = |name: &str| parts.get(name).cloned().unwrap_or_default();
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (scheme, rest) = scheme(rest)?;
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let is_opaque = !scheme.is_empty() && !rest.starts_with('/');
    let authority = rest.strip_prefix("//").filter(|_| !is_opaque).and_then(|rest| rest.split('/').next());
    let host = authority.map(|authority| authority.rsplit_once('@').map_or(authority, |(_, host)| host));
    let raw = |plain: &str, given: &str| if plain == given { String::new() } else { given.to_owned() };
    let has_user = authority.is_some_and(|authority| authority.contains('@'));
    Ok(json!({
        "ForceQuery": query == Some(""),
        "Fragment": part("fragment"),
        "Host": unescape(host.unwrap_or_default())?,
        "OmitHost": authority.is_none() && !scheme.is_empty() && !is_opaque,
        "Opaque": if is_opaque { rest } else { "" },
        "Path": part("path"),
        "RawFragment": if escape(&part("fragment")) == fragment { String::new() } else { raw(&part("fragment"), fragment) },
        "RawPath": raw(&part("path"), &part("raw_path")),
        "RawQuery": part("raw_query"),
        "Scheme": part("scheme"),
        // Its fields are nobody's.
        "User": if has_user { json!({}) } else { Json::Null },
    }))
}

/// The parts that are there.
fn read(text: &str) -> Result<Vec<(&'static str, String)>, String> {
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    if rest.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    let mut parts = Vec::new();
    let mut put = |key, value: String| {
        if !value.is_empty() {
            parts.push((key, value));
        }
    };
    put("fragment", unescape(fragment)?);
    let (scheme, rest) = scheme(rest)?;
    put("scheme", scheme.to_ascii_lowercase());
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    put("raw_query", query.to_owned());
    if !rest.starts_with('/') {
        if !scheme.is_empty() {
            // Opaque, as in `mailto:a@b`.
            return Ok(parts);
        }
        if rest.split('/').next().is_some_and(|first| first.contains(':')) {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
    }
    let authority = (!scheme.is_empty() || !rest.starts_with("///")).then(|| rest.strip_prefix("//")).flatten();
    let path = match authority {
        Some(authority) => {
            let at = authority.find('/').unwrap_or(authority.len());
            let (authority, path) = authority.split_at_checked(at).unwrap_or((authority, ""));
            let (host, port) = host(authority)?;
            put("hostname", host);
            put("port", port);
            path
        }
        None => rest,
    };
    let plain = unescape(path)?;
    if !plain.is_empty() {
        // What is escaped as it would be anyway has no form of its own.
        let raw = if escape(&plain) == path { plain.clone() } else { path.to_owned() };
        put("raw_path", raw);
    }
    put("path", plain);
    Ok(parts)
}

fn scheme(text: &str) -> Result<(&str, &str), String> {
    for (at, letter) in text.char_indices() {
        match letter {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => {
                let (scheme, rest) = text.split_at_checked(at).unwrap_or((text, ""));
                return Ok((scheme, rest.strip_prefix(':').unwrap_or(rest)));
            }
            _ => return Ok(("", text)),
        }
    }
    Ok(("", text))
}

/// Host name and port of `user@host:port`.
fn host(authority: &str) -> Result<(String, String), String> {
    let host = match authority.rsplit_once('@') {
        Some((user, host)) => {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte);
            if !user.bytes().all(allowed) {
                return Err("net/url: invalid userinfo".to_owned());
            }
            unescape(user)?;
            host
        }
        None => authority,
    };
    let port_of = |text: &str| -> Result<String, String> {
        match text.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(digits.to_owned()),
            None if text.is_empty() => Ok(String::new()),
            _ => Err(format!("invalid port {text:?} after host")),
        }
    };
    if let Some(inner) = host.strip_prefix('[') {
        let (address, port) = inner.rsplit_once(']').ok_or("missing ']' in host")?;
        let (number, zone) = address.split_once("%25").map_or((address, None), |(number, zone)| (number, Some(zone)));
        if number.parse::<std::net::Ipv6Addr>().is_err() {
            return Err("invalid host".to_owned());
        }
        let zone = zone.map(unescape).transpose()?;
        return Ok((zone.map_or_else(|| number.to_owned(), |zone| format!("{number}%{zone}")), port_of(port)?));
    }
    if host.contains('[') {
        return Err("invalid host".to_owned());
    }
    let at = host.rfind(':').unwrap_or(host.len());
    let (name, port) = host.split_at_checked(at).unwrap_or((host, ""));
    if name.contains(':') {
        return Err("invalid host".to_owned());
    }
    let port = port_of(port)?;
    check_host(name)?;
    Ok((unescape(name)?, port))
}

/// Percent-encoding stands only for what is not ASCII, and only some characters stand for themselves.
fn check_host(name: &str) -> Result<(), String> {
    let mut rest = name;
    while let Some((plain, escape)) = rest.split_once('%') {
        let code = escape.get(..2).filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) if byte >= 0x80 || byte == b'%' => {}
            _ => return Err(format!("invalid URL escape \"%{}\"", escape.get(..2).unwrap_or(escape))),
        }
        check_letters(plain)?;
        rest = escape.get(2..).unwrap_or_default();
    }
    check_letters(rest)
}

fn check_letters(text: &str) -> Result<(), String> {
    let allowed =
        |letter: char| !letter.is_ascii() || letter.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]<>\"".contains(letter);
    match text.chars().find(|letter| !allowed(*letter)) {
        Some(letter) => Err(format!("invalid character \"{letter}\" in host name")),
        None => Ok(()),
    }
}

fn unescape(text: &str) -> Result<String, String> {
    let mut rest = text;
    while let Some((_, escape)) = rest.split_once('%') {
        if !escape.get(..2).is_some_and(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            let end = escape.char_indices().nth(2).map_or(escape.len(), |(at, _)| at);
            return Err(format!("invalid URL escape \"%{}\"", escape.get(..end).unwrap_or_default()));
        }
        rest = escape.get(2..).unwrap_or_default();
    }
    // Go keeps bytes that are no text, and shows them as this does.
    Ok(percent_decode_str(text).decode_utf8_lossy().into_owned())
}

/// As Go escapes a path.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_valid() {
        assert_eq!(is_valid(&[Value::from("http://a/%ff")]), Ok(Value::Bool(true)));
        assert_eq!(is_valid(&[Value::from("http://a/%f")]), Ok(Value::Bool(false)));
        let parts = parse(&[Value::from("http://a/%ff")]).unwrap();
        assert_eq!(parts["path"], Value::from("/\u{fffd}"));
        assert_eq!(parts["raw_path"], Value::from("/%ff"));
    }
}
