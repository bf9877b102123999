//! The allowed values of every key: the one table behind checks, error messages and `docs/configuration.md`.

use std::net::IpAddr;

use toml::Value;

pub use super::table::{BACKEND_LISTS, KEYS};
use crate::auth::{host_of, parse_network};

/// One key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `section.name`; the keys of a list of tables are `section[].name`.
    pub path: &'static str,
    /// The allowed values.
    pub kind: Kind,
    /// The description for the reference page.
    pub doc: &'static str,
    /// Set if `jan-server config` masks its value.
    pub secret: bool,
    /// Set if a table must contain it.
    pub required: bool,
    /// The value of `backend` in the same table with which the key exists; `None`: any.
    pub backend: Option<&'static str>,
}

/// The allowed values of a key.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Text.
    Text,
    /// `host:port`.
    Address,
    /// Log directives.
    LogLevel,
    /// A path, relative to the server's working directory at its start.
    Path,
    /// An integer from `min` to `max`, in `unit`.
    Integer {
        /// The minimum.
        min: i64,
        /// The maximum.
        max: i64,
        /// The unit.
        unit: &'static str,
    },
    /// A boolean.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of texts; one text with commas is accepted as well.
    TextList,
    /// A list, as [`Self::TextList`], of addresses and networks.
    Networks,
    /// A list, as [`Self::TextList`], of host names.
    Hosts,
    /// `https://…`, or `http://…` on this machine, since secrets are sent to it.
    Url,
    /// The base of an API: `https://…` or `http://…`, on any host, without credentials, query and fragment.
    BaseUrl,
}

/// Returns the key at `path` (list indexes written as `[]`).
#[must_use]
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Returns the `backend` that a key or a list of tables belongs to, if it belongs to one.
#[must_use]
pub fn backend_of(path: &str) -> Option<&'static str> {
    let list = || BACKEND_LISTS.iter().find(|(list, _)| *list == path).map(|(_, backend)| *backend);
    find(path).and_then(|key| key.backend).or_else(list)
}

/// Returns whether `path` is a section or a list of tables rather than a value.
#[must_use]
pub fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| {
        key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.') || rest.starts_with("[]"))
    })
}

/// Returns the known key, or the section if `path` has no dot, that is most similar to `path`, if one is similar enough
/// to be the intended one.
#[must_use]
pub fn nearest(path: &str) -> Option<&'static str> {
    let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
    let keys = KEYS.iter().map(|key| {
        let (known_section, known_name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        let likeness = strsim::jaro_winkler(name, known_name);
        // A key in the wrong section is nearly as likely as a misspelt one.
        (if section == known_section { likeness } else { likeness * 0.95 }, key.path)
    });
    let sections = KEYS
        .iter()
        .filter(|_| section.is_empty())
        .filter_map(|key| key.path.split(['.', '[']).next())
        .map(|known| (strsim::jaro_winkler(name, known), known));
    keys.chain(sections)
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

impl Kind {
    /// Describes the allowed values for messages and the reference page.
    #[must_use]
    pub fn allowed(&self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Address => "`host:port`".to_owned(),
            Self::LogLevel => "a log level or directives".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Integer { min, max, .. } => format!("an integer from {min} to {max}"),
            Self::Flag => "`true` or `false`".to_owned(),
            Self::Choice(words) => {
                let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
                format!("one of {}", quoted.join(", "))
            }
            Self::TextList => "a list of strings".to_owned(),
            Self::Networks => "a list of addresses and networks such as `10.0.0.0/8`".to_owned(),
            Self::Hosts => "a list of host names such as `chat.example`".to_owned(),
            Self::Url => "an `https://` URL, or an `http://` one on this machine".to_owned(),
            Self::BaseUrl => {
                "an `http://` or `https://` URL without credentials, query and fragment, such as `http://gpu1:8000/v1`"
                    .to_owned()
            }
        }
    }

    /// Returns the unit, or an empty text for keys without one.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        match self {
            Self::Integer { unit, .. } => unit,
            _ => "",
        }
    }

    /// Checks a value and converts it to the form that the structs take.
    ///
    /// # Errors
    /// A text that says what is wrong; the caller appends what is allowed.
    pub fn check(&self, value: Value) -> Result<Value, String> {
        let wrong = |value: &Value| Err(format!("{} is not {}", describe(value), self.allowed()));
        match (self, value) {
            (Self::Text | Self::Path, Value::String(text)) if !text.trim().is_empty() => {
                Ok(Value::String(text))
            }
            (Self::Address, Value::String(text)) if is_address(&text) => Ok(Value::String(text)),
            (Self::LogLevel, Value::String(text)) => {
                match tracing_subscriber::EnvFilter::builder().parse(&text) {
                    Ok(_) if !text.trim().is_empty() => Ok(Value::String(text)),
                    _ => wrong(&Value::String(text)),
                }
            }
            (Self::Choice(words), Value::String(text)) if words.contains(&text.as_str()) => {
                Ok(Value::String(text))
            }
            (Self::Integer { min, max, .. }, Value::Integer(number)) if (*min..=*max).contains(&number) => {
                Ok(Value::Integer(number))
            }
            (Self::Flag, Value::Boolean(flag)) => Ok(Value::Boolean(flag)),
            (Self::Url, Value::String(text)) if is_url(&text) => Ok(Value::String(text)),
            (Self::BaseUrl, Value::String(text)) if is_base_url(&text) => Ok(Value::String(text)),
            (Self::TextList | Self::Networks | Self::Hosts, Value::String(text)) => self.check(Value::Array(
                text.split(',')
                    .map(str::trim)
                    .filter(|part| !part.is_empty())
                    .map(|part| Value::String(part.to_owned()))
                    .collect(),
            )),
            (Self::TextList, Value::Array(items)) if items.iter().all(Value::is_str) => {
                Ok(Value::Array(items))
            }
            (Self::Networks, Value::Array(items)) => {
                match items.iter().find(|item| item.as_str().is_none_or(|text| parse_network(text).is_err()))
                {
                    Some(item) => wrong(item),
                    None => Ok(Value::Array(items)),
                }
            }
            (Self::Hosts, Value::Array(items)) => {
                match items.iter().find(|item| item.as_str().is_none_or(|text| host_of(text).is_none())) {
                    Some(item) => wrong(item),
                    None => Ok(Value::Array(items)),
                }
            }
            (_, value) => wrong(&value),
        }
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn is_url(text: &str) -> bool {
    let Ok(url) = oauth2::url::Url::parse(text) else { return false };
    let host = url.host_str().unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let here = host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
    let scheme_fits = url.scheme() == "https" || (url.scheme() == "http" && here);
    scheme_fits && !host.is_empty() && url.fragment().is_none()
}

fn is_base_url(text: &str) -> bool {
    let Ok(url) = oauth2::url::Url::parse(text) else { return false };
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty()) && plain
}

fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Integer(number) => format!("{number}"),
        Value::Float(number) => format!("{number}"),
        Value::Boolean(flag) => format!("{flag}"),
        Value::Datetime(when) => format!("the date {when}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    }
}

/// Replaces every secret in a whole configuration with `***`.
pub fn mask_secrets(config: &mut Value) {
    mask(config, "", &KEYS);
}

fn mask(value: &mut Value, path: &str, keys: &[Key]) {
    match value {
        Value::Table(table) => {
            for (name, inner) in table.iter_mut() {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                mask(inner, &path, keys);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_table) => {
            for item in items {
                mask(item, &format!("{path}[]"), keys);
            }
        }
        Value::String(text) if text.is_empty() => {}
        leaf => {
            if keys.iter().any(|key| key.path == path && key.secret) {
                *leaf = Value::String("***".to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_and_nothing_else() {
        let key =
            |path, secret| Key { path, kind: Kind::Text, doc: "", secret, required: false, backend: None };
        let keys = [key("auth.secret", true), key("peers[].token", true), key("auth.name", false)];
        let mut config: Value = toml::from_str::<toml::Table>(
            "[auth]\nsecret = 'hunter2'\nname = 'n'\n[[peers]]\ntoken = 'a'\n[[peers]]\ntoken = ''\n",
        )
        .map(Value::Table)
        .unwrap();
        mask(&mut config, "", &keys);
        let text = toml::to_string(&config).unwrap();
        assert!(!text.contains("hunter2") && !text.contains("'a'") && !text.contains("\"a\""), "{text}");
        assert_eq!(text.matches("***").count(), 2, "{text}");
        assert!(text.contains("name = \"n\""), "{text}");
    }

    #[test]
    fn nearest_key_is_found_by_path_and_by_name() {
        assert_eq!(nearest("http.listn"), Some("http.listen"));
        assert_eq!(nearest("listen"), Some("http.listen"));
        assert_eq!(nearest("htpt"), Some("http"));
        assert_eq!(nearest("engine.body_limit_bytes"), Some("http.body_limit_bytes"));
        assert_eq!(nearest("models[].pth"), Some("models[].path"));
        assert_eq!(nearest("zzzzqqqq"), None);
    }

    #[test]
    fn secrets_go_only_to_addresses_that_keep_them() {
        for fine in
            ["https://a.example/x?y=z", "http://localhost:8080/a", "http://127.0.0.1:1", "http://[::1]/"]
        {
            assert!(is_url(fine), "{fine}");
        }
        for wrong in
            ["", "a.example", "http://a.example", "ftp://a.example", "https://", "https://a.example/#f"]
        {
            assert!(!is_url(wrong), "{wrong}");
        }
    }

    #[test]
    fn the_base_of_an_api_has_nothing_secret_in_it() {
        for fine in ["http://gpu1:8000/v1", "https://a.example", "http://[::1]:1/x/", "http://10.0.0.1"] {
            assert!(is_base_url(fine), "{fine}");
        }
        for wrong in [
            "gpu1:8000",
            "/v1",
            "ftp://a",
            "http://a:b@c/v1",
            "http://k@c/v1",
            "http://a/?k=1",
            "http://a/#f",
        ] {
            assert!(!is_base_url(wrong), "{wrong}");
        }
    }

    #[test]
    fn sections_are_distinguished_from_keys() {
        assert!(is_section("http") && is_section("models") && is_section("models[]"));
        assert!(!is_section("http.listen") && !is_section("htt"));
    }
}
