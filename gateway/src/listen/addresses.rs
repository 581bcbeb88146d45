//! Idle connections by the address they come from, so that one address cannot have all places of the
//! listener: connections that have sent no head yet, and those that wait for the next.
//!
//! **Invariant:** an address is remembered while a connection from it is open. A request on a connection
//! that is there already takes no lock.

use crate::{admission::network, share::is_fair};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicIsize, Ordering::Relaxed},
    },
};

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Addresses(Mutex<HashMap<IpAddr, Arc<AtomicIsize>>>);

/// An open connection, idle until it says otherwise.
#[derive(Debug)]
pub(super) struct FromAddress {
    addresses: Arc<Addresses>,
    network: IpAddr,
    /// Idle connections from there. It may be ahead of what it counts for a moment.
    idle: Arc<AtomicIsize>,
}

impl Addresses {
    /// A connection that was accepted, where so many places are `free` then; `None` where its address
    /// has its share of them ([`crate::share`]) in idle ones.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr, free: usize) -> Option<FromAddress> {
        let network = network(peer);
        let mut all = self.lock();
        let idle = Arc::clone(all.entry(network).or_default());
        let mine = usize::try_from(idle.load(Relaxed)).unwrap_or(0) + 1;
        // One that has none is new here, or all of its connections are in use.
        if mine > 1 && !is_fair(mine, free) {
            return None;
        }
        idle.fetch_add(1, Relaxed);
        drop(all);
        Some(FromAddress { addresses: Arc::clone(self), network, idle })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<AtomicIsize>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FromAddress {
    /// A request begins on it where none ran.
    pub(super) fn is_used(&self) {
        self.idle.fetch_sub(1, Relaxed);
    }

    /// The last request on it has ended.
    pub(super) fn is_idle(&self) {
        self.idle.fetch_add(1, Relaxed);
    }
}

impl Drop for FromAddress {
    /// It is idle then: whatever ran on it has ended before.
    fn drop(&mut self) {
        let mut all = self.addresses.lock();
        self.idle.fetch_sub(1, Relaxed);
        // The map's and its own; new ones are made under the lock.
        if Arc::strong_count(&self.idle) == 2 {
            all.remove(&self.network);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn v4(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
    }

    #[test]
    fn an_address_has_a_share_of_the_places_for_its_idle_connections() {
        let addresses = Arc::new(Addresses::default());
        let mut open = Vec::new();
        let mut enter = |peer| {
            let entered = addresses.enter(peer, 100 - open.len() - 1);
            let is_in = entered.is_some();
            open.extend(entered);
            is_in
        };
        assert_eq!((0..100).filter(|_| enter(v4(1))).count(), 75);
        assert!(enter(v4(2)), "another address");
        let v6 = |host| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, host));
        assert_eq!((0..100).filter(|host| enter(v6(*host))).count(), 18, "a /64 is one address");
        open.iter().for_each(FromAddress::is_used);
        let busy = addresses.enter(v4(1), 0).expect("what runs is not idle");
        drop(busy);
        open.iter().for_each(FromAddress::is_idle);
        open.clear();
        assert!(addresses.lock().is_empty());
    }
}
