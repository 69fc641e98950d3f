//! Values with a unit or a shape: sizes (`64KiB`), spans of time (`50ms`), listener addresses, file modes.

use std::{borrow::Cow, fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A number of bytes, written `4MiB`, `64KiB` or `512B`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(usize);

impl Size {
    pub const fn kib(count: usize) -> Self {
        Self(count * 1024)
    }

    pub const fn mib(count: usize) -> Self {
        Self(count * 1024 * 1024)
    }

    pub const fn bytes(self) -> usize {
        self.0
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = text.parse::<bytesize::ByteSize>().map_err(|_| format!("`{text}` is no size, write `64KiB` or `4MiB`"))?;
        match usize::try_from(size.as_u64()) {
            Ok(0) | Err(_) => Err(format!("size `{text}` is out of range")),
            Ok(bytes) => Ok(Self(bytes)),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
            if self.0.is_multiple_of(unit) {
                return write!(f, "{}{name}", self.0 / unit);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// Longest span: added to any time of day it stays one.
const MAX_SPAN: Duration = Duration::from_secs(366 * 24 * 3600);

/// A span of time above zero and up to a year, written `50ms`, `5s` or `1h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

impl Span {
    pub const fn millis(count: u64) -> Self {
        Self(Duration::from_millis(count))
    }

    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let span = humantime::parse_duration(text)
            .map_err(|error| format!("`{text}` is no span of time ({error}), write `50ms` or `5s`"))?;
        if span.is_zero() {
            return Err("a span of time must be above zero".to_owned());
        }
        if span > MAX_SPAN {
            return Err(format!("`{text}` is too long a span of time, write a year or less"));
        }
        Ok(Self(span))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = humantime::format_duration(self.0).to_string();
        f.write_str(&text.replace(' ', ""))
    }
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// `unix:///path`
    Unix(PathBuf),
    /// `unix://@name`: a Linux abstract socket.
    Abstract(String),
    /// `tcp://host:port`
    Tcp(SocketAddr),
}

impl Default for Address {
    fn default() -> Self {
        Self::Unix("/run/doorward/envoy/authz.sock".into())
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no listener address, write `unix:///path`, `unix://@name` or `tcp://127.0.0.1:9191`");
        if let Some(rest) = text.strip_prefix("unix://") {
            return match rest.strip_prefix('@') {
                Some("") => Err(wrong()),
                Some(name) => Ok(Self::Abstract(name.to_owned())),
                None if rest.starts_with('/') && rest.len() > 1 => Ok(Self::Unix(rest.into())),
                None => Err(wrong()),
            };
        }
        let socket = text.strip_prefix("tcp://").ok_or_else(wrong)?;
        socket.parse().map(Self::Tcp).map_err(|_| wrong())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Abstract(name) => write!(f, "unix://@{name}"),
            Self::Tcp(socket) => write!(f, "tcp://{socket}"),
        }
    }
}

/// Where the SPIFFE Workload API is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum WorkloadEndpoint {
    /// `unix:///path`
    Unix(PathBuf),
    /// `tcp://127.0.0.1:8081`: private keys come this way, so it does not leave the host.
    Tcp(SocketAddr),
}

impl FromStr for WorkloadEndpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no address of the Workload API, write `unix:///path`");
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path.starts_with('/') && path.len() > 1 {
                true => Ok(Self::Unix(path.into())),
                false => Err(wrong()),
            };
        }
        let socket: SocketAddr = text.strip_prefix("tcp://").and_then(|socket| socket.parse().ok()).ok_or_else(wrong)?;
        match socket.ip().is_loopback() {
            true => Ok(Self::Tcp(socket)),
            false => Err(format!("`{text}` would carry private keys in the clear, write `unix:///path`")),
        }
    }
}

impl fmt::Display for WorkloadEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(socket) => write!(f, "tcp://{socket}"),
        }
    }
}

/// Permission bits of a file, written `"0660"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(u32);

impl FileMode {
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl Default for FileMode {
    fn default() -> Self {
        Self(0o660)
    }
}

impl FromStr for FileMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match u32::from_str_radix(text, 8) {
            Ok(bits) if bits <= 0o777 => Ok(Self(bits)),
            _ => Err(format!("`{text}` is no file mode, write it in octal and quoted, like \"0660\"")),
        }
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// The name of a place: an environment, a cluster, a zone. Letters, digits and `._/-`, so that it can stand anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceName(String);

impl PlaceName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PlaceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._/-".contains(&byte);
        match (1..=128).contains(&text.len()) && text.bytes().all(plain) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("`{text}` is no name of a place: write 1 to 128 letters, digits and `._/-`, like `eu-west-1a`")),
        }
    }
}

impl fmt::Display for PlaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! as_text {
    ($($type:ident: $pattern:literal, $example:literal;)+) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "pattern": $pattern, "examples": [$example]})
            }
        }
    )+};
}

as_text! {
    Size: r"^[0-9.]+ ?([KMG]i?)?B$", "64KiB";
    Span: r"^([0-9]+ ?(ns|us|ms|s|m|min|h|d) ?)+$", "50ms";
    Address: r"^(unix:///.+|unix://@.+|tcp://.+:[0-9]+)$", "unix:///run/doorward/envoy/authz.sock";
    WorkloadEndpoint: r"^(unix:(//)?/.+|tcp://.+:[0-9]+)$", "unix:///run/spire/agent/public/api.sock";
    FileMode: r"^0?[0-7]{3}$", "0660";
    PlaceName: r"^[A-Za-z0-9._/-]{1,128}$", "eu-west-1a";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_read_and_print_the_same() {
        for text in ["64KiB", "4MiB", "1GiB", "1500B"] {
            assert_eq!(text.parse::<Size>().map(|size| size.to_string()).as_deref(), Ok(text));
        }
        for text in ["50ms", "5s", "1m30s"] {
            assert_eq!(text.parse::<Span>().map(|span| span.to_string()).as_deref(), Ok(text));
        }
        for text in ["unix:///run/x.sock", "unix://@name", "tcp://127.0.0.1:9191", "tcp://[::1]:1"] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()).as_deref(), Ok(text));
        }
        assert_eq!("0660".parse::<FileMode>().map(FileMode::bits), Ok(0o660));
    }

    #[test]
    fn what_has_no_unit_or_no_shape_is_refused() {
        for text in ["", "0B", "-1KiB", "x"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        for text in ["", "0s", "5", "soon", "9999999999999999s", "2years"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        for text in ["", "/run/x.sock", "unix://", "unix://@", "unix://x", "tcp://localhost", "127.0.0.1:1", "unix:///"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        for text in ["660x", "1777", "888"] {
            assert!(text.parse::<FileMode>().is_err(), "{text}");
        }
        for text in ["", "eu west", "zone\n", "zürich", &"z".repeat(129)] {
            assert!(text.parse::<PlaceName>().is_err(), "{text}");
        }
    }
}
