//! Policies for callers without a credential.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName};
use jan_actors::config::{AnonymousPolicy, GuestPolicy};

/// The callers that a policy permits without a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenTo {
    /// None.
    Nobody,
    /// Programs on this machine, see [`is_local`].
    ThisMachine,
    /// All.
    Everyone,
}

impl OpenTo {
    /// Resolves `auth.anonymous`. `exposed`: the server listens on an address other than loopback, or has proxies.
    #[must_use]
    pub fn anonymous(policy: AnonymousPolicy, exposed: bool) -> Self {
        match policy {
            AnonymousPolicy::Auto => Self::auto(exposed),
            AnonymousPolicy::Allow => Self::Everyone,
            AnonymousPolicy::Deny => Self::Nobody,
        }
    }

    /// Resolves `auth.guests` in the same way.
    #[must_use]
    pub fn guests(policy: GuestPolicy, exposed: bool) -> Self {
        match policy {
            GuestPolicy::Auto => Self::auto(exposed),
            GuestPolicy::On => Self::Everyone,
            GuestPolicy::Off => Self::Nobody,
        }
    }

    fn auto(exposed: bool) -> Self {
        if exposed { Self::Nobody } else { Self::ThisMachine }
    }

    /// Returns whether a caller is permitted.
    #[must_use]
    pub fn includes(self, is_local: bool) -> bool {
        match self {
            Self::Nobody => false,
            Self::ThisMachine => is_local,
            Self::Everyone => true,
        }
    }

    /// Describes the permitted callers for a warning; `None` if there are none. `proxied`: some use configured proxies.
    #[must_use]
    pub fn description(self, address: SocketAddr, proxied: bool) -> Option<String> {
        let reachable = || match (address.ip().is_loopback(), proxied) {
            (true, false) => {
                "every program on this machine, and every client that one of them forwards".to_owned()
            }
            (true, true) => "every client that the configured proxies forward".to_owned(),
            (false, _) => format!("every client that can reach {address}"),
        };
        match self {
            Self::Nobody => None,
            Self::ThisMachine => Some("every program on this machine".to_owned()),
            Self::Everyone => Some(reachable()),
        }
    }
}

/// Returns whether a request was made on this machine: over a loopback connection and not forwarded. A proxy that is
/// not configured may run on this machine too, so any header of a proxy makes the request a remote one; its contents
/// are not trusted.
#[must_use]
pub fn is_local(peer: SocketAddr, headers: &HeaderMap) -> bool {
    peer.ip().to_canonical().is_loopback() && !headers.keys().any(is_of_a_proxy)
}

fn is_of_a_proxy(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("x-forwarded")
        || matches!(
            name,
            "forwarded"
                | "via"
                | "x-real-ip"
                | "x-client-ip"
                | "x-original-forwarded-for"
                | "x-cluster-client-ip"
                | "x-envoy-external-address"
                | "cf-connecting-ip"
                | "true-client-ip"
                | "fly-client-ip"
        )
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn local(peer: &str, header: Option<&'static str>) -> bool {
        let value = HeaderValue::from_static("127.0.0.1");
        let headers = header.map(|name| (HeaderName::from_static(name), value));
        is_local(peer.parse().unwrap(), &HeaderMap::from_iter(headers))
    }

    #[test]
    fn a_proxy_on_this_machine_speaks_for_others() {
        for here in ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(local(here, None) && local(here, Some("user-agent")), "{here}");
            for header in ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"] {
                assert!(!local(here, Some(header)), "{here} {header}");
            }
        }
        for elsewhere in ["10.0.0.1:1", "[2001:db8::1]:1"] {
            assert!(!local(elsewhere, None), "{elsewhere}");
        }
    }

    #[test]
    fn only_policies_of_that_name_open_what_is_exposed() {
        for (policy, here, exposed) in [
            (AnonymousPolicy::Auto, OpenTo::ThisMachine, OpenTo::Nobody),
            (AnonymousPolicy::Allow, OpenTo::Everyone, OpenTo::Everyone),
            (AnonymousPolicy::Deny, OpenTo::Nobody, OpenTo::Nobody),
        ] {
            assert_eq!(OpenTo::anonymous(policy, false), here);
            assert_eq!(OpenTo::anonymous(policy, true), exposed);
        }
        for (open, local, other) in [
            (OpenTo::Nobody, false, false),
            (OpenTo::ThisMachine, true, false),
            (OpenTo::Everyone, true, true),
        ] {
            assert_eq!((open.includes(true), open.includes(false)), (local, other), "{open:?}");
        }
    }
}
