//! Numbers of guests, per network and in all: one person can create any number of guests, so their number is bounded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::IdentityError;
use super::party::ClientNet;
use crate::config::AuthConfig;

/// Maximum numbers of guests.
#[derive(Clone, Copy, Debug)]
pub struct GuestLimits {
    /// Guests created from one network.
    pub per_net: usize,
    /// Guests in all.
    pub all: usize,
}

impl From<&AuthConfig> for GuestLimits {
    fn from(config: &AuthConfig) -> Self {
        Self { per_net: config.max_guests_per_address, all: config.max_guests }
    }
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    /// Never 0.
    nets: HashMap<ClientNet, usize>,
}

impl Counts {
    fn add(&mut self, net: Option<ClientNet>) {
        self.all += 1;
        if let Some(net) = net {
            *self.nets.entry(net).or_default() += 1;
        }
    }

    fn remove(&mut self, net: Option<ClientNet>) {
        self.all = self.all.saturating_sub(1);
        let Some(net) = net else { return };
        match self.nets.get_mut(&net) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.nets.remove(&net);
            }
        }
    }
}

/// The existing guests and those about to be created.
#[derive(Debug, Default)]
pub struct Guests(Mutex<Counts>);

impl Guests {
    /// Replaces the counts by those of these guests, given by the networks that they were created from.
    pub fn replace(&self, guests: impl Iterator<Item = Option<ClientNet>>) {
        let mut counts = Counts::default();
        guests.for_each(|net| counts.add(net));
        *self.lock() = counts;
    }

    /// Counts one more guest.
    pub fn add(&self, net: Option<ClientNet>) {
        self.lock().add(net);
    }

    /// Counts one guest less.
    pub fn remove(&self, net: Option<ClientNet>) {
        self.lock().remove(net);
    }

    /// Counts a guest that is about to be created until the result is dropped, since concurrent creations are not in the index
    /// yet.
    ///
    /// # Errors
    /// [`IdentityError::TooManyGuests`].
    pub fn reserve(
        self: &Arc<Self>,
        net: ClientNet,
        limits: GuestLimits,
    ) -> Result<GuestPlace, IdentityError> {
        let mut counts = self.lock();
        let of_net = counts.nets.get(&net).copied().unwrap_or(0);
        let checks = [
            (of_net, limits.per_net, "one address can create (auth.max_guests_per_address)"),
            (counts.all, limits.all, "this server permits (auth.max_guests)"),
        ];
        for (there, limit, whose) in checks {
            if there >= limit {
                return Err(IdentityError::TooManyGuests { limit, whose });
            }
        }
        counts.add(Some(net));
        Ok(GuestPlace { guests: Arc::clone(self), net })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // No change leaves the counts incomplete.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reserved place of a guest that is about to be created.
#[derive(Debug)]
#[must_use = "dropping it gives the place back"]
pub struct GuestPlace {
    guests: Arc<Guests>,
    net: ClientNet,
}

impl Drop for GuestPlace {
    fn drop(&mut self) {
        self.guests.remove(Some(self.net));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: GuestLimits = GuestLimits { per_net: 3, all: 7 };

    #[derive(Clone, Debug)]
    enum Step {
        Reserve(u8),
        Make(usize),
        GiveUp(usize),
        Forget(usize),
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u8..4).prop_map(Step::Reserve),
            3 => (0usize..8).prop_map(Step::Make),
            1 => (0usize..8).prop_map(Step::GiveUp),
            1 => (0usize..8).prop_map(Step::Forget),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        /// For any sequence of operations, neither bound is exceeded, and no request below both is refused.
        #[test]
        fn guest_bounds_hold_and_admit_requests_below_them(steps in prop::collection::vec(step(), 0..60)) {
            let guests = Arc::new(Guests::default());
            let (mut reserved, mut made) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Reserve(last) => {
                        let net = ClientNet::V4([192, 0, 2, last]);
                        let there = reserved.iter().map(|(net, _)| *net).chain(made.iter().copied());
                        let own = there.filter(|other| *other == net).count();
                        let fits = own < LIMITS.per_net && reserved.len() + made.len() < LIMITS.all;
                        let place = guests.reserve(net, LIMITS);
                        prop_assert_eq!(place.is_ok(), fits);
                        reserved.extend(place.ok().map(|place| (net, place)));
                    }
                    Step::Make(at) if at < reserved.len() => {
                        let (net, place) = reserved.remove(at);
                        guests.add(Some(net));
                        drop(place);
                        made.push(net);
                    }
                    Step::GiveUp(at) if at < reserved.len() => drop(reserved.remove(at)),
                    Step::Forget(at) if at < made.len() => guests.remove(Some(made.remove(at))),
                    Step::Restart if reserved.is_empty() => guests.replace(made.iter().copied().map(Some)),
                    _ => {}
                }
            }
            drop(reserved);
            made.into_iter().for_each(|net| guests.remove(Some(net)));
            let counts = guests.lock();
            prop_assert!(counts.all == 0 && counts.nets.is_empty(), "no count stays without a guest");
        }
    }
}
