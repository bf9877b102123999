//! The client address of a request: the peer of the connection, or the address that a trusted proxy forwarded.
//!
//! Every hop may have written to `X-Forwarded-For`, so the list is read from its end: an entry counts only if a
//! configured proxy appended it, and the first address that is not a proxy's is the client.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

/// Addresses of proxies whose `X-Forwarded-For` counts.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Takes addresses (`10.0.0.7`) and networks (`10.0.0.0/8`, `fd00::/8`).
    ///
    /// # Errors
    /// The first text that is neither.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, String> {
        texts.iter().map(|text| parse_network(text.as_ref())).collect::<Result<_, _>>().map(Self)
    }

    /// Returns whether `ip`, in its canonical form, belongs to a proxy.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&ip))
    }

    /// Returns the client's address. `peer` is the remote end of the connection.
    #[must_use]
    pub fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.ip().to_canonical();
        if self.0.is_empty() || !self.contains(client) {
            return client;
        }
        // Several header lines are one list in the order of the lines, RFC 9110 section 5.3.
        let lines: Vec<&[u8]> =
            headers.get_all("x-forwarded-for").iter().map(|line| line.as_bytes()).collect();
        for entry in lines.iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b',')) {
            // An entry that is not an address hides the client, so the proxy that wrote it counts as the client.
            let Some(ip) = std::str::from_utf8(entry).ok().and_then(parse_forwarded) else { break };
            client = ip;
            if !self.contains(ip) {
                break;
            }
        }
        client
    }
}

/// An address or a network as a network.
pub(crate) fn parse_network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| format!("{text:?} is neither an address nor a network such as `10.0.0.0/8`"))
}

/// Parses one entry of the list: an address, to which some proxies append a port.
fn parse_forwarded(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim();
    let ip = entry
        .parse::<IpAddr>()
        .ok()
        .or_else(|| entry.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| entry.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6))?;
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn client(proxies: &[&str], peer: &str, forwarded: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append("x-forwarded-for", HeaderValue::from_str(line).unwrap());
        }
        let peer = SocketAddr::new(peer.parse().unwrap(), 4711);
        TrustedProxies::parse(proxies).unwrap().client(peer, &headers).to_string()
    }

    #[test]
    fn only_configured_proxies_are_believed() {
        assert_eq!(client(&[], "127.0.0.1", &["1.2.3.4"]), "127.0.0.1");
        assert_eq!(client(&["10.0.0.0/8"], "127.0.0.1", &["1.2.3.4"]), "127.0.0.1");
        assert_eq!(client(&["127.0.0.1"], "127.0.0.1", &["1.2.3.4"]), "1.2.3.4");
        assert_eq!(client(&["127.0.0.1"], "127.0.0.1", &[]), "127.0.0.1");
    }

    #[test]
    fn the_list_is_read_from_its_end() {
        let proxies = ["10.0.0.0/8", "fd00::/8"];
        // The client itself may have written the left part.
        assert_eq!(client(&proxies, "10.0.0.1", &["9.9.9.9, 1.2.3.4, 10.0.0.2"]), "1.2.3.4");
        assert_eq!(client(&proxies, "10.0.0.1", &["9.9.9.9", "1.2.3.4", "10.0.0.2,fd00::7"]), "1.2.3.4");
        assert_eq!(client(&proxies, "10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(client(&proxies, "::ffff:10.0.0.1", &["::ffff:1.2.3.4"]), "1.2.3.4");
    }

    #[test]
    fn ports_and_brackets_are_understood_and_nonsense_stops_the_search() {
        let proxies = ["10.0.0.1"];
        assert_eq!(client(&proxies, "10.0.0.1", &["1.2.3.4:5678"]), "1.2.3.4");
        assert_eq!(client(&proxies, "10.0.0.1", &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(client(&proxies, "10.0.0.1", &["[2001:db8::1]"]), "2001:db8::1");
        for nonsense in ["unknown", "", "1.2.3.4, ", "1.2.3.4, x"] {
            assert_eq!(client(&proxies, "10.0.0.1", &[nonsense]), "10.0.0.1", "{nonsense:?}");
        }
    }

    #[test]
    fn wrong_networks_are_named() {
        for wrong in ["", "localhost", "10.0.0.0/33", "1.2.3"] {
            assert!(TrustedProxies::parse(&["10.0.0.1", wrong]).unwrap_err().contains(wrong), "{wrong}");
        }
    }

    proptest! {
        /// An untrusted peer is its own client, with any header.
        #[test]
        fn untrusted_peers_cannot_forge_addresses(ip: u32, line in "[ -~]{0,60}") {
            let peer = Ipv4Addr::from_bits(ip | 1 << 31).to_string();
            prop_assert_eq!(client(&["10.0.0.0/8"], &peer, &[&line]), peer);
        }

        /// Entries before the proxy's own make no difference.
        #[test]
        fn entries_before_that_of_the_proxy_are_ignored(line in "[ -~]{0,60}") {
            let forwarded = format!("{line},1.2.3.4");
            prop_assert_eq!(client(&["10.0.0.1"], "10.0.0.1", &[&forwarded]), "1.2.3.4");
        }
    }
}
