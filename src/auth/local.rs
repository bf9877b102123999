//! Protection against browsers on the server's own machine, which any web page can make send requests to a loopback
//! address: as a cross-origin request, or by a name that the page's owner resolves to 127.0.0.1 (DNS rebinding). A
//! request without an accepted credential must name this machine in its `Host`, and its `Origin` must be known.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, Uri};

use crate::http::ApiError;

/// The hosts and origins, besides the loopback ones, that requests without a credential may name.
#[derive(Clone, Debug, Default)]
pub struct LocalNames {
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl LocalNames {
    /// `hosts` are names with or without a port, which is not compared. `*` among `origins` is ignored: it lets pages
    /// send a credential, and permits nothing without one.
    pub fn new(hosts: impl IntoIterator<Item = String>, origins: &[String]) -> Self {
        let hosts =
            hosts.into_iter().filter_map(|host| host_of(&host).map(str::to_ascii_lowercase)).collect();
        let origins = origins.iter().filter(|origin| *origin != "*").cloned().collect();
        Self { hosts, origins }
    }

    /// Checks every host and origin that a request names.
    ///
    /// # Errors
    /// 403 `host_not_allowed` or `origin_not_allowed`.
    pub fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        // HTTP/2 has the host in the URI. A request may contain both forms, and then both are checked.
        let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
        let named = headers.get_all(HOST).iter().map(http::HeaderValue::as_bytes);
        let hosts: Vec<&[u8]> = authority.into_iter().chain(named).collect();
        for host in &hosts {
            if !self.is_host(host) {
                return Err(ApiError::forbidden(
                    "host_not_allowed",
                    format!(
                        "The request names the host {:?}. On a loopback connection a request without a valid \
                         credential may name localhost, a loopback address, or a name of `http.allowed_hosts`.",
                        shown(host)
                    ),
                )
                .with_param("Host"));
            }
        }
        for origin in headers.get_all(ORIGIN) {
            if !self.is_origin(origin.as_bytes(), &hosts) {
                return Err(ApiError::forbidden(
                    "origin_not_allowed",
                    format!(
                        "The request comes from a page of {:?}. On a loopback connection a page without a valid \
                         credential must be of a loopback address, of this server or of \
                         `http.cors_allowed_origins`, where `*` does not count.",
                        shown(origin.as_bytes())
                    ),
                )
                .with_param("Origin"));
            }
        }
        Ok(())
    }

    fn is_host(&self, host: &[u8]) -> bool {
        let Some(host) = std::str::from_utf8(host).ok().and_then(host_of) else { return false };
        is_loopback_host(host) || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
    }

    /// `hosts` are this request's hosts, already checked: a page of this server has one of them as its origin.
    fn is_origin(&self, origin: &[u8], hosts: &[&[u8]]) -> bool {
        let Ok(origin) = std::str::from_utf8(origin) else { return false };
        if self.origins.iter().any(|known| known == origin) {
            return true;
        }
        let Some((_scheme, authority)) = origin.split_once("://") else { return false };
        let is_own = || hosts.iter().any(|host| host.eq_ignore_ascii_case(authority.as_bytes()));
        host_of(authority).is_some_and(is_loopback_host) || is_own()
    }
}

/// Returns the name in `name`, `name:port`, `[address]` or `[address]:port`, with its brackets.
pub(crate) fn host_of(authority: &str) -> Option<&str> {
    let end = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(end);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let fits = if host.starts_with('[') {
        host[1..end - 1].parse::<Ipv6Addr>().is_ok()
    } else {
        !host.is_empty() && host.bytes().all(is_name)
    };
    let port_fits = port.is_empty()
        || port.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    (fits && port_fits).then_some(host)
}

/// A literal address in `Host` involved no name resolution, so it cannot be an attacker's name.
fn is_loopback_host(host: &str) -> bool {
    let v6 = || host.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let ip = host.parse::<Ipv4Addr>().ok().map(IpAddr::V4).or_else(v6);
    host.eq_ignore_ascii_case("localhost") || ip.is_some_and(|ip| ip.to_canonical().is_loopback())
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn check(uri: &str, lines: &[(&'static str, &str)]) -> Result<(), &'static str> {
        let names = LocalNames::new(
            ["Chat.example:443".to_owned(), "[2001:db8::1]".to_owned()],
            &["*".to_owned(), "https://app.example".to_owned()],
        );
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        names.check(&uri.parse().unwrap(), &headers).map_err(|error| error.code())
    }

    #[test]
    fn hosts_are_this_machine_or_configured() {
        for fine in [
            "localhost",
            "LocalHost:1",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
            "chat.example",
            "CHAT.example:9",
            "[2001:db8::1]:80",
        ] {
            assert_eq!(check("/", &[("host", fine)]), Ok(()), "{fine}");
            assert_eq!(check(&format!("http://{fine}/"), &[]), Ok(()), "{fine}");
        }
        for wrong in [
            "",
            ":80",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil.localhost",
            "localhost.",
            "chat.example.",
            "x",
            "0.0.0.0",
            "192.168.0.1",
            "[::2]",
            "::1",
            "[::1",
            "localhost:80:80",
            "localhost:x",
            "localhost@evil.example",
            "evil.example@localhost",
            "127.1",
            "ä",
        ] {
            assert_eq!(check("/", &[("host", wrong)]), Err("host_not_allowed"), "{wrong}");
        }
        let twice = check("/", &[("host", "localhost"), ("host", "evil.example")]);
        assert_eq!(twice, Err("host_not_allowed"));
        assert_eq!(check("http://evil.example/", &[("host", "localhost")]), Err("host_not_allowed"));
        assert_eq!(check("/", &[]), Ok(()), "no browser sends no name");
    }

    #[test]
    fn origins_are_this_machine_its_own_or_listed() {
        let from = |host: &str, origin: &str| check("/", &[("host", host), ("origin", origin)]);
        for fine in [
            "http://localhost:3000",
            "https://127.0.0.1",
            "http://[::1]:8080",
            "tauri://localhost",
            "https://app.example",
            "https://chat.example",
        ] {
            assert_eq!(from("chat.example", fine), Ok(()), "{fine}");
        }
        for wrong in [
            "https://evil.example",
            "https://app.example:444",
            "http://app.example",
            "https://app.example.evil.example",
            "http://localhost.evil.example",
            "https://chat.example:1",
            "null",
            "*",
            "",
            "localhost",
        ] {
            assert_eq!(from("chat.example", wrong), Err("origin_not_allowed"), "{wrong}");
        }
        assert_eq!(from("evil.example", "http://evil.example"), Err("host_not_allowed"));
        let twice = check("/", &[("origin", "http://localhost"), ("origin", "http://evil.example")]);
        assert_eq!(twice, Err("origin_not_allowed"));
    }

    proptest! {
        #[test]
        fn no_name_panics(host in "[\\[\\]:a1.@\\PC]{0,12}") {
            let _ = check("/", &[("host", host.trim()), ("origin", host.trim())]);
        }
    }
}
