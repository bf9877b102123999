//! The connection URL: its parameters and how far TLS protects it. Pure, except for reading the file of a URL.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use crate::config::{DatabaseUrl, StorageConfig};

/// Parameters that are passed on to the driver.
const PASSED_ON: &[&str] = &[
    "application_name",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "load_balance_hosts",
    "password",
    "port",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// The protection of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protection {
    /// None: the connection does not leave this machine, or the URL says so.
    Plain,
    /// TLS with the host's certificate verified against these roots; `None`: those of the system.
    VerifyFull(Option<PathBuf>),
}

/// A checked URL.
#[derive(Clone)]
pub struct Target {
    /// The driver's settings.
    pub config: Config,
    /// The protection.
    pub protection: Protection,
}

/// Without the password.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("name", &self.name()).field("protection", &self.protection).finish()
    }
}

impl Target {
    /// The database as it is named in messages: hosts, ports and database, without user and password.
    pub fn name(&self) -> String {
        let ports = self.config.get_ports();
        let hosts = self.config.get_hosts().iter().enumerate().map(|(at, host)| {
            let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(folder) => format!("{}:{port}", folder.display()),
            }
        });
        let database = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        format!("{}/{database}", hosts.collect::<Vec<_>>().join(","))
    }
}

/// The two URLs of a configuration.
#[derive(Clone, Debug)]
pub struct Targets {
    /// For queries; it may lead to a connection pooler.
    pub pool: Target,
    /// For what needs a session of its own.
    pub direct: Target,
}

/// Reads the URLs of a configuration.
///
/// # Errors
/// The setting, the problem, and what is allowed; never a password.
pub fn targets(storage: &StorageConfig) -> Result<Targets, String> {
    check_schema(&storage.schema)?;
    let url = one_of("storage.url", storage.url.as_ref(), storage.url_file.as_deref())?;
    let Some((name, url)) = url else {
        return Err("storage.kind = \"postgres\" needs storage.url or storage.url_file: \
                    postgres://USER:PASSWORD@HOST:PORT/DATABASE"
            .to_owned());
    };
    let pool = parse(&name, &url, storage)?;
    let direct =
        one_of("storage.direct_url", storage.direct_url.as_ref(), storage.direct_url_file.as_deref())?;
    let direct = match direct {
        Some((name, url)) => parse(&name, &url, storage)?,
        None => pool.clone(),
    };
    Ok(Targets { pool, direct })
}

/// The text of a setting, or of the file that another one names.
fn one_of(
    name: &str,
    url: Option<&DatabaseUrl>,
    file: Option<&Path>,
) -> Result<Option<(String, String)>, String> {
    match (url, file) {
        (Some(_), Some(_)) => Err(format!("{name} and {name}_file are both set; set one of them")),
        (Some(url), None) => Ok(Some((name.to_owned(), url.expose().to_owned()))),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("cannot read {} ({name}_file): {error}", path.display()))?;
            Ok(Some((format!("{name}_file"), text.trim().to_owned())))
        }
        (None, None) => Ok(None),
    }
}

/// Checks the name of a schema, which is written into statements.
fn check_schema(schema: &str) -> Result<(), String> {
    let mut letters = schema.chars();
    let first = letters.next().is_some_and(|letter| letter.is_ascii_lowercase());
    let rest = letters.all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_');
    match first && rest && schema.len() <= 40 && !schema.starts_with("pg_") {
        true => Ok(()),
        false => Err(format!(
            "storage.schema is {schema:?}; it has up to 40 lower-case letters, digits and underscores, begins with a letter, \
             and not with pg_"
        )),
    }
}

fn parse(name: &str, url: &str, storage: &StorageConfig) -> Result<Target, String> {
    let form = "postgres://USER:PASSWORD@HOST:PORT/DATABASE?PARAMETER=VALUE, where a password's special characters \
                are percent-encoded";
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(format!("{name} is no PostgreSQL URL; it reads {form}"));
    }
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (mut mode, mut roots, mut rest) = (None, None, Vec::new());
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match key {
            "sslmode" => mode = Some(value),
            "sslrootcert" => roots = Some(value).filter(|value| *value != "system"),
            known if PASSED_ON.contains(&known) => rest.push(parameter),
            _ => {
                let allowed = PASSED_ON.join(", ");
                return Err(format!(
                    "{name} has a parameter that is not supported; supported are {allowed}, sslmode and sslrootcert"
                ));
            }
        }
    }
    let driver = format!("{base}?{}", rest.join("&"));
    // The driver's own message may repeat a part of the URL.
    let mut config =
        Config::from_str(&driver).map_err(|_| format!("{name} cannot be read; it reads {form}"))?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(format!("{name} names no host; it reads {form}"));
    }
    let protection = match mode {
        None if is_local(&config) => Protection::Plain,
        None | Some("verify-full") => Protection::VerifyFull(roots.map(percent_decoded).map(PathBuf::from)),
        Some("disable") => Protection::Plain,
        Some(other) => {
            // Text that is no mode may be a misplaced password.
            let known = ["allow", "prefer", "require", "verify-ca"].into_iter().find(|mode| *mode == other);
            let mode = known.map_or("an unknown sslmode".to_owned(), |mode| format!("sslmode={mode}"));
            return Err(format!(
                "{name} has {mode}; allowed are verify-full, which verifies the host's certificate, and disable, which sends \
                 everything in the clear. The others accept any server that answers"
            ));
        }
    };
    config.ssl_mode(if protection == Protection::Plain { SslMode::Disable } else { SslMode::Require });
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(Duration::from_millis(storage.connect_timeout_ms));
    }
    if config.get_application_name().is_none() {
        config.application_name("jan-server");
    }
    if config.get_hosts().len() > 1 && !query.contains("target_session_attrs") {
        // Among a primary and its standbys, the primary.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    if config.get_tcp_user_timeout().is_none() {
        // A host that is gone without a word is noticed by then.
        config.tcp_user_timeout(Duration::from_millis(storage.statement_timeout_ms.saturating_add(5000)));
    }
    config.keepalives_idle(Duration::from_secs(10));
    Ok(Target { config, protection })
}

/// Returns `true` if a connection does not leave this machine.
fn is_local(config: &Config) -> bool {
    let hosts = config.get_hosts().iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    });
    hosts && config.get_hostaddrs().iter().all(IpAddr::is_loopback)
}

/// The text of a percent-encoded value; a wrong escape stands for itself.
fn percent_decoded(text: &str) -> String {
    let (bytes, mut decoded, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => (decoded.push(byte), at += 3).1,
            None => (decoded.push(bytes[at]), at += 1).1,
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn storage(url: &str) -> StorageConfig {
        StorageConfig { url: Some(DatabaseUrl::new(url)), ..StorageConfig::default() }
    }

    fn parsed(url: &str) -> Result<Target, String> {
        targets(&storage(url)).map(|targets| targets.pool)
    }

    #[test]
    fn other_machines_are_verified_unless_the_url_says_otherwise() {
        let verified = Protection::VerifyFull(None);
        let roots = Protection::VerifyFull(Some(PathBuf::from("/etc/a b.pem")));
        for (url, expected) in [
            ("postgres://jan@db.example/jan", verified.clone()),
            ("postgres://jan@db.example/jan?sslmode=verify-full&sslrootcert=system", verified.clone()),
            ("postgres://jan@db.example/jan?sslrootcert=/etc/a%20b.pem", roots),
            ("postgres://jan@db.example/jan?sslmode=disable", Protection::Plain),
            ("postgres://jan@127.0.0.1:5433/jan", Protection::Plain),
            ("postgresql://jan@localhost/jan", Protection::Plain),
            ("postgres://jan@localhost/jan?sslmode=verify-full", verified.clone()),
            ("postgres://jan@/jan?host=/run/postgresql", Protection::Plain),
            ("postgres://jan@localhost,db.example/jan", verified),
        ] {
            assert_eq!(parsed(url).unwrap().protection, expected, "{url}");
        }
    }

    #[test]
    fn wrong_urls_are_explained_without_the_password() {
        for (url, part) in [
            ("mysql://jan:hunter2@db/jan", "no PostgreSQL URL"),
            ("hunter2", "no PostgreSQL URL"),
            ("postgres://jan:hunter2@db:port/jan", "cannot be read"),
            ("postgres://jan:hunter2@db/jan?hunter2=1", "not supported"),
            ("postgres://jan:hunter2@db/jan?sslmode=prefer", "verify-full"),
            ("postgres://jan:hunter2@db/jan?sslmode=hunt er2", "verify-full"),
            ("postgres:///jan?password=hunter2", "names no host"),
        ] {
            let error = parsed(url).unwrap_err();
            assert!(error.contains(part) && error.contains("storage.url"), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn settings_that_do_not_fit_together_are_named() {
        let none = targets(&StorageConfig::default()).unwrap_err();
        assert!(none.contains("storage.url_file") && none.contains("postgres://"), "{none}");
        let both = StorageConfig { url_file: Some("/nowhere".into()), ..storage("postgres://a@b/c") };
        assert!(targets(&both).unwrap_err().contains("both set"));
        let file = StorageConfig { url_file: Some("/nowhere/url".into()), ..StorageConfig::default() };
        let missing = targets(&file).unwrap_err();
        assert!(missing.contains("/nowhere/url") && missing.contains("storage.url_file"), "{missing}");
        for schema in ["", "Jan", "1jan", "jan-server", "pg_jan", "ja\"n", &"a".repeat(41)] {
            let storage = StorageConfig { schema: schema.to_owned(), ..storage("postgres://a@b/c") };
            assert!(targets(&storage).unwrap_err().contains("storage.schema"), "{schema}");
        }
    }

    #[test]
    fn url_of_a_file_is_used_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        std::fs::write(&path, "postgres://jan:hunter2@db.example:6000/chat\n").unwrap();
        let storage = StorageConfig { url_file: Some(path), ..StorageConfig::default() };
        let targets = targets(&storage).unwrap();
        assert_eq!(targets.direct.name(), "db.example:6000/chat");
        assert!(!format!("{targets:?}").contains("hunter2"), "{targets:?}");
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_read_and_never_shown(text in "[a-z:/@?=&%0-9]{0,40}") {
            let url = format!("postgres://u:SeCrEt@{text}");
            let shown = match parsed(&url) {
                Ok(target) => format!("{target:?}"),
                Err(error) => error,
            };
            prop_assert!(!shown.contains("SeCrEt"), "{}", shown);
        }
    }
}
