//! Parties, which limits are counted for: users, and networks of clients.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ids::UserId;

/// A client's network as limits count it: one IPv4 address, or an IPv6 /64, which is what one customer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientNet {
    /// One address.
    V4([u8; 4]),
    /// The first 64 bits.
    V6([u8; 8]),
}

impl From<IpAddr> for ClientNet {
    fn from(address: IpAddr) -> Self {
        // An IPv4 client of a dual-stack socket counts as that IPv4 client.
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// `192.0.2.1` or `2001:db8::/64`
impl fmt::Display for ClientNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::V4(octets) => write!(f, "{}", IpAddr::from(octets)),
            Self::V6(prefix) => {
                let mut octets = [0; 16];
                octets[..8].copy_from_slice(&prefix);
                write!(f, "{}/64", Ipv6Addr::from(octets))
            }
        }
    }
}

impl FromStr for ClientNet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, is_v6) = match text.strip_suffix("/64") {
            Some(prefix) => (prefix, true),
            None => (text, false),
        };
        match address.parse::<IpAddr>() {
            Ok(ip) if ip.is_ipv6() == is_v6 => Ok(ip.into()),
            _ => Err(format!("{text:?} is neither an IPv4 address nor an IPv6 /64")),
        }
    }
}

// Serialized as text, since exports are read by people.
impl Serialize for ClientNet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClientNet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The entity that limits, shares and places are counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// A user.
    User(UserId),
    /// The anonymous callers and the guests of a network, together: one person can create any number of guests.
    Net(ClientNet),
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => user.fmt(f),
            Self::Net(net) => net.fmt(f),
        }
    }
}
