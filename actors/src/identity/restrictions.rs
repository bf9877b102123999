//! Restrictions of a key to addresses and models.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Maximum number of models, and of networks, of one key.
pub const MAX_ENTRIES: usize = 64;

/// An address or a network of addresses: `192.0.2.7`, `2001:db8::/32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network(IpNet);

/// A text that is neither an address nor a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither an address nor a network such as `10.0.0.0/8`")]
pub struct InvalidNetwork;

impl Network {
    /// Returns whether the network contains an address. An IPv4 client of a dual-stack socket counts as that IPv4 client.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Returns whether the network contains every address of another.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.0.contains(&other.0)
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let text = text.trim();
        let single = || text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
        let network = text.parse::<IpNet>().or_else(|_| single()).map_err(|_| InvalidNetwork)?;
        // `10.1.2.3/8` means the network that the address lies in. `::ffff:a.b.c.d/96+n` would contain no client, since such
        // addresses are treated as IPv4.
        match network {
            IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => {
                let v4 = v6.addr().to_ipv4_mapped().ok_or(InvalidNetwork)?;
                let length = v6.prefix_len().checked_sub(96).ok_or(InvalidNetwork)?;
                let network = IpNet::new(v4.into(), length).map_err(|_| InvalidNetwork)?;
                Ok(Self(network.trunc()))
            }
            network => Ok(Self(network.trunc())),
        }
    }
}

impl TryFrom<String> for Network {
    type Error = InvalidNetwork;

    fn try_from(text: String) -> Result<Self, InvalidNetwork> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

/// An address alone is written without a prefix length.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

/// The addresses and models that a key is restricted to. `None` means any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Restrictions {
    /// Allowed ids or aliases of models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// Allowed addresses of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<Network>>,
}

impl Restrictions {
    /// Returns whether there is no restriction.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.models.is_none() && self.addresses.is_none()
    }

    /// Returns whether the key may be used from an address; `None` is an unknown address.
    #[must_use]
    pub fn allows(&self, address: Option<IpAddr>) -> bool {
        let Some(networks) = &self.addresses else { return true };
        address.is_some_and(|address| networks.iter().any(|network| network.has(address)))
    }

    /// Returns whether these models are all allowed by every one of `bounds`.
    #[must_use]
    pub fn models_within(models: Option<&[String]>, bounds: &[Self]) -> bool {
        bounds
            .iter()
            .filter_map(|bound| bound.models.as_deref())
            .all(|bound| models.is_some_and(|models| models.iter().all(|model| bound.contains(model))))
    }

    /// Returns whether these networks all lie in those of every one of `bounds`.
    #[must_use]
    pub fn addresses_within(addresses: Option<&[Network]>, bounds: &[Self]) -> bool {
        bounds.iter().filter_map(|bound| bound.addresses.as_deref()).all(|bound| {
            addresses.is_some_and(|networks| {
                networks.iter().all(|network| bound.iter().any(|one| one.covers(network)))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_and_networks() {
        for (text, shown) in [
            ("192.0.2.7", "192.0.2.7"),
            (" 10.1.2.3/8 ", "10.0.0.0/8"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::1", "::1"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("::ffff:10.1.0.0/112", "10.1.0.0/16"),
        ] {
            assert_eq!(network(text).to_string(), shown);
        }
        for text in ["", "x", "10.0.0.0/33", "10.0.0", "::/129", "10.0.0.1-10.0.0.9", "::ffff:10.0.0.0/90"] {
            assert_eq!(text.parse::<Network>(), Err(InvalidNetwork), "{text}");
        }
        assert!(network("10.0.0.0/8").has("::ffff:10.9.9.9".parse().unwrap()));
        assert!(!network("10.0.0.0/8").has("11.0.0.1".parse().unwrap()));
        assert!(
            !network("0.0.0.0/0").has("2001:db8::1".parse().unwrap()),
            "every IPv4 address is no IPv6 one"
        );
    }

    #[test]
    fn restricted_key_is_refused_without_an_address() {
        let bound = Restrictions { addresses: Some(vec![network("0.0.0.0/0")]), models: None };
        assert!(bound.allows(Some([1, 2, 3, 4].into())));
        assert!(!bound.allows(None));
        assert!(Restrictions::default().allows(None));
    }

    fn networks() -> impl Strategy<Value = Vec<Network>> {
        let one = (any::<u32>(), 0u8..=32).prop_map(|(bits, length)| {
            let address = std::net::Ipv4Addr::from(bits & 0x0303_0003);
            network(&format!("{address}/{length}"))
        });
        prop::collection::vec(one, 1..4)
    }

    proptest! {
        /// Networks within a bound allow no address that the bound does not.
        #[test]
        fn networks_within_allow_no_more(inner in networks(), outer in networks(), bits in any::<u32>()) {
            let bound = [Restrictions { addresses: Some(outer), models: None }];
            let held = Restrictions::addresses_within(Some(&inner), &bound);
            let inner = Restrictions { addresses: Some(inner), models: None };
            let address = IpAddr::from(std::net::Ipv4Addr::from(bits & 0x0303_0003));
            if held && inner.allows(Some(address)) {
                prop_assert!(bound[0].allows(Some(address)));
            }
            prop_assert!(!Restrictions::addresses_within(None, &bound));
            prop_assert!(Restrictions::addresses_within(None, &[Restrictions::default()]));
        }

        #[test]
        fn networks_format_as_parsed(inner in networks()) {
            for network in inner {
                prop_assert_eq!(network.to_string().parse::<Network>(), Ok(network));
            }
        }

        #[test]
        fn parser_never_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<Network>();
        }
    }
}
