//! `io.jwt.decode_verify`: the signature, and what the caller demands of header and claims.

use std::{borrow::Cow, rc::Rc};

use regorus::Value;

use super::{
    Token,
    algorithm::Algorithm,
    chosen, holds,
    key::{Key, Material},
    keys, member,
};
use crate::policy::builtins::{Fault, context, operand, text_operand};

/// What a token has to meet.
struct Constraints {
    keys: Rc<Vec<Key>>,
    algorithm: Option<String>,
    issuer: Option<String>,
    audience: String,
    /// Seconds since the Unix epoch.
    time: f64,
}

const NANOSECONDS: f64 = 1e9;

/// `[true, header, payload]`, or `[false, {}, {}]` for a token that does not hold.
pub(super) fn decode_verify(args: &[Value]) -> Result<Value, Fault> {
    let text = text_operand(args, 0)?;
    let constraints = Constraints::of(args.get(1))?;
    let answer = |holds: bool, header: Value, payload: Value| Value::from(vec![Value::Bool(holds), header, payload]);
    Ok(match verified(text, &constraints)? {
        Some((header, payload)) if claims_hold(&payload, &constraints)? => answer(true, header, payload),
        _ => answer(false, Value::new_object(), Value::new_object()),
    })
}

/// Header and payload of a token whose signature holds; of the innermost one, where tokens are nested, each of which
/// has to hold (RFC 7519 §7.2).
fn verified(text: &str, constraints: &Constraints) -> Result<Option<(Value, Value)>, Fault> {
    let mut text = Cow::Borrowed(text);
    // Each round takes a quarter off, so that this ends.
    loop {
        let token = Token::split(&text)?;
        let (header, parameters) = token.header()?;
        if !parameters.understood() || constraints.algorithm.as_ref().is_some_and(|wanted| *wanted != parameters.algorithm) {
            return Ok(None);
        }
        let signature = token.signature()?;
        let Some(algorithm) = Algorithm::named(&parameters.algorithm) else { return Ok(None) };
        if !holds(&token, &signature, algorithm, &chosen(&constraints.keys, &parameters))? {
            return Ok(None);
        }
        if !parameters.is_nested() {
            return Ok(Some((header, token.payload()?)));
        }
        text = Cow::Owned(token.payload_text()?);
    }
}

impl Constraints {
    /// Anything unknown is an error, and so are none or two kinds of keys.
    fn of(value: Option<&Value>) -> Result<Self, Fault> {
        let Some(Value::Object(fields)) = value else { return Err(operand(2, "object")) };
        let (mut certificate, mut secret, mut algorithm, mut issuer, mut audience, mut time) = (None, "", "", "", "", None);
        for (name, value) in fields.iter() {
            let Value::String(name) = name else { return Err("unknown token validation constraint".into()) };
            if name.as_ref() == "time" {
                time = Some(moment(value)?);
                continue;
            }
            let Value::String(text) = value else { return Err(Fault(format!("{name} constraint: must be a string"))) };
            match name.as_ref() {
                "cert" => certificate = Some(keys(text)?),
                "secret" => secret = text,
                "alg" => algorithm = text,
                "iss" => issuer = text,
                "aud" => audience = text,
                _ => return Err(Fault(format!("unknown token validation constraint: {name}"))),
            }
        }
        let keys = match certificate {
            Some(_) if !secret.is_empty() => return Err("duplicate key constraints".into()),
            Some(keys) => keys,
            None if secret.is_empty() => return Err("no key constraint".into()),
            None => {
                let material = Material::Secret(secret.as_bytes().to_vec());
                Rc::new(vec![Key { algorithm: None, id: String::new(), material, private: false }])
            }
        };
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Ok(Self {
            keys,
            algorithm: given(algorithm),
            issuer: given(issuer),
            audience: audience.to_owned(),
            #[expect(clippy::cast_precision_loss, reason = "OPA compares times as 64-bit floats too")]
            time: time.unwrap_or_else(|| context::now_ns() as f64 / NANOSECONDS),
        })
    }
}

fn moment(value: &Value) -> Result<f64, Fault> {
    let Value::Number(_) = value else { return Err("token time constraint: must be a number".into()) };
    let time = float(value).ok_or("token time constraint: invalid float64")?;
    if time < 0.0 {
        return Err("token time constraint: must not be negative".into());
    }
    Ok(time / NANOSECONDS)
}

/// The registered claims (RFC 7519 §4.1). A token that names an audience wants to be asked for it.
fn claims_hold(payload: &Value, constraints: &Constraints) -> Result<bool, Fault> {
    if let Some(wanted) = &constraints.issuer {
        match member(payload, "iss") {
            Some(Value::String(issuer)) if issuer.as_ref() == wanted.as_str() => {}
            Some(Value::String(_)) | None => return Ok(false),
            Some(_) => return Err("iss value must be a string".into()),
        }
    }
    let is_wanted = |value: &Value| matches!(value, Value::String(text) if text.as_ref() == constraints.audience.as_str());
    let addressed = match member(payload, "aud") {
        Some(Value::Array(audiences)) => audiences.iter().any(is_wanted),
        Some(audience) => is_wanted(audience),
        None => constraints.audience.is_empty(),
    };
    if !addressed {
        return Ok(false);
    }
    let (expires, begins) = (seconds(payload, "exp")?, seconds(payload, "nbf")?);
    Ok(expires.is_none_or(|expires| constraints.time < expires) && begins.is_none_or(|begins| begins <= constraints.time))
}

fn seconds(payload: &Value, claim: &str) -> Result<Option<f64>, Fault> {
    let wrong = || Fault(format!("{claim} value must be a number"));
    match member(payload, claim) {
        None => Ok(None),
        Some(value @ Value::Number(_)) => float(value).map(Some).ok_or_else(wrong),
        Some(_) => Err(wrong()),
    }
}

/// The engine itself turns no number into a float that loses digits by it, as nanoseconds do.
fn float(value: &Value) -> Option<f64> {
    value.as_f64().ok().or_else(|| value.to_json_str().ok()?.parse().ok())
}
