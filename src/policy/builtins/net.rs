//! `net.cidr_*`. Addresses and blocks are read as Go reads them: no leading zeros, no zone in a block, and a v4 address in
//! v6 clothing (`::ffff:1.2.3.4`) is a v4 address.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use regorus::Value;

use super::{Builtin, Fault, operand, text_operand};

pub(super) const NET: &[Builtin] = &[
    Builtin { name: "net.cidr_contains", arity: 2, run: contains },
    Builtin { name: "net.cidr_contains_matches", arity: 2, run: contains_matches },
    Builtin { name: "net.cidr_expand", arity: 1, run: expand },
    Builtin { name: "net.cidr_intersects", arity: 2, run: intersects },
    Builtin { name: "net.cidr_overlap", arity: 2, run: contains },
    Builtin { name: "net.cidr_merge", arity: 1, run: merge },
    Builtin { name: "net.cidr_is_valid", arity: 1, run: is_valid },
];

/// Most addresses that a block may be expanded to.
const MAX_HOSTS: u32 = 16;
/// Most comparisons of one call.
const MAX_PAIRS: usize = 1_000_000;

fn parse(text: &str) -> Result<IpNet, Fault> {
    let invalid = || Fault(format!("invalid CIDR address: {text}"));
    let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
    let plain = prefix.bytes().all(|byte| byte.is_ascii_digit());
    let prefix: u8 = prefix.parse().ok().filter(|_| plain).ok_or_else(invalid)?;
    let net = match address.parse::<IpAddr>().map_err(|_| invalid())? {
        IpAddr::V4(v4) => Ipv4Net::new(v4, prefix).map(IpNet::V4),
        IpAddr::V6(v6) => Ipv6Net::new(v6, prefix).map(IpNet::V6),
    };
    net.map(|net| unmapped_net(net.trunc())).map_err(|_| invalid())
}

/// A block of mapped addresses is the block of v4 addresses that they stand for.
fn unmapped_net(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let v4 = v6.network().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    v4.and_then(|(v4, prefix)| Ipv4Net::new(v4, prefix).ok()).map_or(net, IpNet::V4)
}

fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(unmapped)
}

fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Go's `IPNet.Contains`: of one family only.
fn holds(net: &IpNet, address: IpAddr) -> bool {
    match (net, unmapped(address)) {
        (IpNet::V4(net), IpAddr::V4(v4)) => net.contains(&v4),
        (IpNet::V6(net), IpAddr::V6(v6)) => net.contains(&v6),
        (IpNet::V6(_), IpAddr::V4(_)) | (IpNet::V4(_), IpAddr::V6(_)) => false,
    }
}

fn contains(args: &[Value]) -> Result<Value, Fault> {
    let net = parse(text_operand(args, 0)?)?;
    contains_text(&net, text_operand(args, 1)?).map(Value::Bool)
}

fn contains_text(net: &IpNet, text: &str) -> Result<bool, Fault> {
    if let Some(address) = address(text) {
        return Ok(holds(net, address));
    }
    let wrong = || Fault(format!("not a valid textual representation of an IP address or CIDR: {text}"));
    let inner = parse(text).map_err(|_| wrong())?;
    Ok(match (net, &inner) {
        (IpNet::V6(outer), IpNet::V6(inner)) => outer.contains(inner),
        _ => holds(net, inner.network()) && holds(net, inner.broadcast()),
    })
}

fn intersects(args: &[Value]) -> Result<Value, Fault> {
    let (a, b) = (parse(text_operand(args, 0)?)?, parse(text_operand(args, 1)?)?);
    Ok(Value::Bool(holds(&a, b.network()) || holds(&b, a.network())))
}

fn is_valid(args: &[Value]) -> Result<Value, Fault> {
    Ok(Value::Bool(text_operand(args, 0).is_ok_and(|text| parse(text).is_ok())))
}

fn expand(args: &[Value]) -> Result<Value, Fault> {
    let net = parse(text_operand(args, 0)?)?;
    if u32::from(net.max_prefix_len() - net.prefix_len()) > MAX_HOSTS {
        return Err(Fault::limit("the block is too large to expand"));
    }
    let addresses: BTreeSet<Value> = match net {
        IpNet::V4(net) => all(u128::from(u32::from(net.network())), u128::from(u32::from(net.broadcast())))
            .map(|at| Value::from(Ipv4Addr::from(u32::try_from(at).unwrap_or(0)).to_string()))
            .collect(),
        IpNet::V6(net) => all(u128::from(net.network()), u128::from(net.broadcast()))
            .map(|at| Value::from(Ipv6Addr::from(at).to_string()))
            .collect(),
    };
    Ok(Value::from(addresses))
}

fn all(first: u128, last: u128) -> impl Iterator<Item = u128> {
    first..=last
}

/// The blocks or addresses of an operand, each with what stands for it in the answer.
fn candidates(args: &[Value], index: usize) -> Result<Vec<(String, Value)>, Fault> {
    let wrong = || Fault(format!("operand {}: element must be string or non-empty array", index + 1));
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.to_string()),
        Value::Array(items) => match items.first() {
            Some(Value::String(text)) => Ok(text.to_string()),
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    };
    match args.get(index) {
        Some(Value::String(whole)) => Ok(vec![(whole.to_string(), Value::String(whole.clone()))]),
        Some(Value::Array(items)) => items.iter().enumerate().map(|(at, item)| Ok((text(item)?, Value::from(at)))).collect(),
        Some(Value::Set(items)) => items.iter().map(|item| Ok((text(item)?, item.clone()))).collect(),
        Some(Value::Object(fields)) => fields.iter().map(|(key, item)| Ok((text(item)?, key.clone()))).collect(),
        _ => Err(operand(index + 1, "string, array, set, object")),
    }
}

fn contains_matches(args: &[Value]) -> Result<Value, Fault> {
    let (blocks, inner) = (candidates(args, 0)?, candidates(args, 1)?);
    if blocks.len().saturating_mul(inner.len()) > MAX_PAIRS {
        return Err(Fault::limit("too many pairs to compare"));
    }
    let mut found = BTreeSet::new();
    if inner.is_empty() {
        return Ok(Value::from(found));
    }
    for (block, name) in &blocks {
        let net = parse(block)?;
        for (text, other) in &inner {
            if contains_text(&net, text)? {
                found.insert(Value::from(vec![name.clone(), other.clone()]));
            }
        }
    }
    Ok(Value::from(found))
}

/// The fewest blocks with the same addresses. An address alone stands for its class's block, as in Go (10.0.0.1 is
/// 10.0.0.0/8): only v4 has classes.
fn merge(args: &[Value]) -> Result<Value, Fault> {
    let items: Vec<&Value> = match args.first() {
        Some(Value::Array(items)) => items.iter().collect(),
        Some(Value::Set(items)) => items.iter().collect(),
        _ => return Err("operand must be an array".into()),
    };
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for item in items {
        let Value::String(text) = item else { return Err("element must be string".into()) };
        let net = match address(text) {
            Some(IpAddr::V4(v4)) => {
                let prefix = match v4.octets() {
                    [0..=127, ..] => 8,
                    [128..=191, ..] => 16,
                    _ => 24,
                };
                Ipv4Net::new(v4, prefix).map(|net| IpNet::V4(net.trunc())).map_err(|_| Fault::from("invalid prefix"))?
            }
            Some(IpAddr::V6(_)) => return Err("IPv6 invalid: needs prefix length".into()),
            None => parse(text)?,
        };
        match net {
            IpNet::V4(net) => v4.push(net),
            IpNet::V6(net) => v6.push(net),
        }
    }
    let merged = Ipv4Net::aggregate(&v4).into_iter().map(|net| net.to_string());
    let merged = merged.chain(Ipv6Net::aggregate(&v6).into_iter().map(|net| net.to_string()));
    Ok(Value::from(merged.map(Value::from).collect::<BTreeSet<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(run: fn(&[Value]) -> Result<Value, Fault>, args: &[&str]) -> Option<String> {
        let args: Vec<Value> = args.iter().map(|arg| Value::from_json_str(arg).unwrap()).collect();
        run(&args).ok().map(|value| serde_json::to_string(&value).unwrap())
    }

    #[test]
    fn blocks_are_compared_as_in_opa() {
        for (block, inner, expected) in [
            ("10.0.0.0/8", "10.1.2.3", Some("true")),
            ("10.0.0.0/8", "::ffff:10.1.2.3", Some("true")),
            ("10.0.0.0/8", "10.0.0.0/7", Some("false")),
            ("10.0.0.0/8", "10.4.0.0/16", Some("true")),
            ("fd00::/8", "fd12::1", Some("true")),
            ("fd00::/8", "10.0.0.1", Some("false")),
            ("10.0.0.0/08", "10.0.0.1", Some("true")),
            ("::ffff:10.0.0.0/104", "10.1.2.3", Some("true")),
            ("::ffff:10.0.0.0/104", "11.1.2.3", Some("false")),
            ("10.0.0.0", "10.0.0.1", None),
            ("010.0.0.0/8", "10.0.0.1", None),
            ("10.0.0.0/8", "x", None),
        ] {
            let args = [format!("\"{block}\""), format!("\"{inner}\"")];
            assert_eq!(call(contains, &[&args[0], &args[1]]).as_deref(), expected, "{block} {inner}");
        }
        assert_eq!(call(expand, &["\"10.0.0.0/6\""]), None);
        assert_eq!(call(expand, &["\"10.0.0.8/31\""]).as_deref(), Some(r#"["10.0.0.8","10.0.0.9"]"#));
        assert_eq!(call(merge, &[r#"["192.0.2.112", "192.0.2.116/31"]"#]).as_deref(), Some(r#"["192.0.2.0/24"]"#));
    }
}
