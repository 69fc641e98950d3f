//! What a command asks about: options that `eval` and `bench` share. A file in any of its forms, or a line like curl's.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::source::{Sidecar, vouched};
use crate::{
    authorizer::trial::Asked,
    clock::Now,
    envoy::{
        decode::Decoded,
        encode::Shape,
        question::{Line, Question},
    },
    identity::Who,
    policy::Drawn,
    record::kept::{self, Kept},
};

/// Largest input, in bytes.
const LARGEST: u64 = 64 * 1024 * 1024;

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "What is asked")]
pub(super) struct Args {
    /// A file, or `-` for standard input: an input document, a CheckRequest (protobuf or JSON), or one record
    #[arg(long, value_name = "FILE", required_unless_present = "path", conflicts_with = "path")]
    input: Option<PathBuf>,
    /// What the file holds; `auto` finds out
    #[arg(long, value_enum, default_value_t = Form::Auto, requires = "input")]
    form: Form,
    /// Path of a request, with its query
    #[arg(long, value_name = "/PATH?QUERY")]
    path: Option<String>,
    /// Method of the request [default: GET, with a body POST]
    #[arg(long, requires = "path")]
    method: Option<String>,
    /// Authority of the request
    #[arg(long, default_value = "localhost", requires = "path")]
    host: String,
    /// A header of the request; may be repeated
    #[arg(long, value_name = "NAME: VALUE", value_parser = header, requires = "path")]
    header: Vec<(String, String)>,
    /// Body of the request, or `@FILE`
    #[arg(long, value_name = "TEXT", requires = "path")]
    body: Option<String>,
    /// SPIFFE ID of the peer, taken for proved
    #[arg(long, value_name = "SPIFFE ID")]
    peer: Option<String>,
    /// Ask as of this time (RFC 3339) [default: now; of a record its own]
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<Now>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Auto,
    Document,
    Check,
    Record,
}

/// What was read.
#[derive(Debug)]
pub(super) enum Given {
    Check(Box<Question>),
    Document(Value),
    Record(Box<Kept>),
}

/// What is asked, ready to be.
#[derive(Debug)]
pub(super) enum Prepared {
    Call { decoded: Box<Decoded>, who: Who },
    Document { input: Value, drawn: Drawn },
}

impl Args {
    /// Reads what is asked, and the time it is asked at.
    pub(super) fn read(&self, now: Now) -> anyhow::Result<(Given, Now)> {
        let now = self.at.unwrap_or(now);
        if let Some(path) = &self.path {
            return Ok((Given::Check(Box::new(self.line(path, now)?)), now));
        }
        let file = self.input.as_deref().unwrap_or(Path::new("-"));
        let given = read(file).and_then(|bytes| given(&bytes, self.form)).with_context(|| format!("`{}`", file.display()))?;
        if self.peer.is_some() && !matches!(given, Given::Check(_)) {
            bail!("`--peer` goes with a request; the input document has its own peer");
        }
        let at = match &given {
            Given::Record(kept) => self.at.unwrap_or(kept.at),
            Given::Document(input) => self.at.or_else(|| time_of(input)).unwrap_or(now),
            Given::Check(_) => now,
        };
        Ok((given, at))
    }

    fn line(&self, path: &str, at: Now) -> anyhow::Result<Question> {
        let body = match self.body.as_deref().map(|body| body.strip_prefix('@').ok_or(body)) {
            Some(Ok(file)) => read(Path::new(file)).with_context(|| format!("`{file}`"))?,
            Some(Err(text)) => text.as_bytes().to_vec(),
            None => Vec::new(),
        };
        let default = if self.body.is_some() { "POST" } else { "GET" };
        Ok(Question::from_line(Line {
            method: self.method.as_deref().unwrap_or(default).to_owned(),
            path: path.to_owned(),
            host: self.host.clone(),
            headers: self.header.clone(),
            body,
            principal: self.peer.clone().unwrap_or_default(),
            at,
        }))
    }

    /// Takes it in as `sidecar` would. What was taken on trust is added to `notes`.
    pub(super) fn prepare(&self, given: Given, sidecar: &Sidecar, now: Now, notes: &mut Vec<String>) -> anyhow::Result<Prepared> {
        Ok(match given {
            Given::Check(question) => {
                let decoded = Box::new(question.decode(&sidecar.decode));
                let who = match &self.peer {
                    Some(id) => vouched(id, notes)?,
                    None => sidecar.who(&decoded.request, now, notes),
                };
                Prepared::Call { decoded, who }
            }
            Given::Document(input) => {
                notes.push("the input document was taken as it stands".to_owned());
                Prepared::Document { input, drawn: Drawn::new() }
            }
            Given::Record(kept) => {
                notes.push(format!("the input is that of record {}, as of its time", kept.id));
                Prepared::Document { input: kept.input, drawn: kept.drawn }
            }
        })
    }
}

impl Given {
    pub(super) const fn form(&self) -> &'static str {
        match self {
            Self::Check(_) => "check",
            Self::Document(_) => "document",
            Self::Record(_) => "record",
        }
    }
}

impl Prepared {
    pub(super) fn asked<'a>(&'a self, sidecar: &'a Sidecar) -> Asked<'a> {
        match self {
            Self::Call { decoded, who } => Asked::Call {
                request: &decoded.request,
                unparsable: decoded.parse_error.clone(),
                who: who.clone(),
                here: &sidecar.here,
            },
            Self::Document { input, drawn } => Asked::Document { input, drawn },
        }
    }

    /// What shapes the answer to Envoy; of a document nothing is known.
    /// The call, where one is asked about.
    pub(super) fn request(&self) -> Option<&crate::request::Request> {
        match self {
            Self::Call { decoded, .. } => Some(&decoded.request),
            Self::Document { .. } => None,
        }
    }

    pub(super) fn shape(&self) -> Shape<'_> {
        match self {
            Self::Call { decoded, .. } => Shape::of(&decoded.request),
            Self::Document { .. } => Shape::UNKNOWN,
        }
    }
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match file == Path::new("-") {
        true => io::stdin().lock().take(LARGEST + 1).read_to_end(&mut bytes)?,
        false => File::open(file)?.take(LARGEST + 1).read_to_end(&mut bytes)?,
    };
    if bytes.len() as u64 > LARGEST {
        bail!("is larger than {LARGEST} bytes");
    }
    Ok(bytes)
}

fn given(bytes: &[u8], form: Form) -> anyhow::Result<Given> {
    if bytes.trim_ascii().is_empty() {
        bail!("is empty");
    }
    let value = match serde_json::from_slice::<Value>(bytes) {
        Ok(value) => value,
        // A message begins with a line feed, and then its length may look like the beginning of JSON.
        Err(error) => match Question::from_protobuf(bytes) {
            Ok(question) if matches!(form, Form::Auto | Form::Check) => return Ok(Given::Check(Box::new(question))),
            Err(message) if !bytes.trim_ascii_start().starts_with(b"{") && form != Form::Document => return Err(message.into()),
            _ => return Err(anyhow::Error::from(error).context("is no JSON, or more than one value; give one at a time")),
        },
    };
    let form = match form {
        Form::Auto if kept::is_record(&value) => Form::Record,
        Form::Auto if value.as_object().is_some_and(|members| members.keys().eq(["attributes"])) => Form::Check,
        Form::Auto => Form::Document,
        form => form,
    };
    Ok(match form {
        Form::Record => Given::Record(Box::new(kept::read(&value)?)),
        Form::Check => Given::Check(Box::new(Question::from_json(value)?)),
        Form::Document | Form::Auto => Given::Document(value),
    })
}

/// The time that an input document was made for.
fn time_of(input: &Value) -> Option<Now> {
    Some(Now { ns: input.get("now")?.get("ns")?.as_u64()? })
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').filter(|(name, _)| !name.is_empty()).ok_or("write `name: value`")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn time(text: &str) -> Result<Now, String> {
    let time = chrono::DateTime::parse_from_rfc3339(text).map_err(|error| format!("{error}; write RFC 3339"))?;
    let ns = time.timestamp_nanos_opt().and_then(|ns| u64::try_from(ns).ok()).ok_or("lies outside the times there are")?;
    Ok(Now { ns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_told_apart() {
        let record = br#"{"v":1,"id":"i","kind":"decision","at":"2026-01-01T00:00:00Z","body":{"decision":"deny","reason":"policy","input":{}}}"#;
        // Attributes of 123 bytes: the length reads as a brace.
        let message = [&[0x0a, 123, 0x52, 121, 0x0a, 1, b'a', 0x12, 116][..], &[b'b'; 116]].concat();
        for (bytes, form, expected) in [
            (&br#"{"user": "a"}"#[..], Form::Auto, "document"),
            (br#"{"attributes": {}, "parsed_path": []}"#, Form::Auto, "document"),
            (br#"{"attributes": {}}"#, Form::Auto, "check"),
            (b"\n {\"attributes\": {}}\n", Form::Auto, "check"),
            (br#"{"attributes": {}}"#, Form::Document, "document"),
            (b"[1]", Form::Auto, "document"),
            (record, Form::Auto, "record"),
            (record, Form::Document, "document"),
            (&message, Form::Auto, "check"),
            (&message, Form::Check, "check"),
        ] {
            assert_eq!(given(bytes, form).unwrap().form(), expected, "{}", String::from_utf8_lossy(bytes));
        }
        for (bytes, form, text) in [
            (&b" \n"[..], Form::Auto, "empty"),
            (b"{\"a\": 1}\n{\"a\": 2}\n", Form::Auto, "one at a time"),
            (b"{\"a\": ", Form::Auto, "no JSON"),
            (b"hello", Form::Auto, "protobuf"),
            (&message, Form::Document, "no JSON"),
            (b"{}", Form::Record, "`kind`"),
            (b"{\"x\": 1}", Form::Check, "unknown field `x`"),
        ] {
            let said = format!("{:#}", given(bytes, form).unwrap_err());
            assert!(said.contains(text), "{said}");
        }
    }

    #[test]
    fn headers_and_times_are_read() {
        assert_eq!(header("X-A:  b: c ").unwrap(), ("X-A".to_owned(), "b: c".to_owned()));
        assert_eq!(header(":path: /").unwrap_err(), "write `name: value`");
        assert_eq!(header("none").unwrap_err(), "write `name: value`");
        assert_eq!(time("1970-01-01T01:00:01+01:00").unwrap(), Now::from_seconds(1));
        assert!(time("noon").is_err() && time("1960-01-01T00:00:00Z").is_err());
        assert_eq!(time_of(&serde_json::json!({"now": {"ns": 5}})), Some(Now { ns: 5 }));
    }
}
