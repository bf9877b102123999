//! Connection limits by client network, so that no network can take all connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jan_actors::identity::ClientNet;

use crate::auth::TrustedProxies;

/// Counts of open connections by client network, so that no network can take all of them. It has an entry only for
/// networks with an open connection, so the limit on connections bounds it.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    limit: usize,
    /// Trusted proxies: many clients connect through them, and their requests are limited by the forwarded addresses.
    exempt: TrustedProxies,
    open: Arc<Mutex<HashMap<ClientNet, usize>>>,
}

impl Addresses {
    pub fn new(limit: usize, exempt: TrustedProxies) -> Self {
        Self { limit, exempt, open: Arc::default() }
    }

    /// Returns the maximum number of connections of one network.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Counts one more connection from `ip` for the lifetime of the result; `None` if its network has reached the
    /// limit.
    pub fn admit(&self, ip: IpAddr) -> Option<AddressPermit> {
        if self.exempt.contains(ip.to_canonical()) {
            return Some(AddressPermit(None));
        }
        let net = ClientNet::from(ip);
        let mut open = self.lock();
        let count = open.get(&net).copied().unwrap_or(0);
        if count >= self.limit {
            return None;
        }
        open.insert(net, count + 1);
        Some(AddressPermit(Some((self.clone(), net))))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ClientNet, usize>> {
        // No code under the lock leaves the map half changed.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A counted connection of one network; connections of trusted proxies are not counted.
#[derive(Debug)]
pub(super) struct AddressPermit(Option<(Addresses, ClientNet)>);

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let Some((addresses, net)) = &self.0 else { return };
        let mut open = addresses.lock();
        match open.get_mut(net) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                open.remove(net);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_network_has_its_own_places() {
        let addresses = Addresses::new(2, TrustedProxies::parse(&["10.0.0.0/8"]).unwrap());
        let admit = |text: &str| addresses.admit(ip(text));
        let held =
            [admit("127.0.0.1"), admit("::ffff:127.0.0.1"), admit("2001:db8::1"), admit("2001:db8::2")];
        assert!(held.iter().all(Option::is_some));
        for full in ["127.0.0.1", "::ffff:127.0.0.1", "2001:db8::3", "2001:db8:0:0:ffff::"] {
            assert!(admit(full).is_none(), "{full}");
        }
        assert!(admit("127.0.0.2").is_some() && admit("2001:db8:0:1::").is_some());
        let proxies: Vec<_> = (0..5).map(|_| admit("::ffff:10.0.0.1")).collect();
        assert!(proxies.iter().all(Option::is_some));
        drop(held);
        assert!(admit("127.0.0.1").is_some());
        assert!(addresses.lock().is_empty(), "no entry stays without a connection");
    }
}
