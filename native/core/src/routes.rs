// SPDX-License-Identifier: BSD-2-Clause
//! A longest-prefix table: one map for each length in use, longest first.
//!
//! A look-up costs as many steps as there are different lengths (33 and 129 at the most, two or three on any real
//! server), however many prefixes there are.

use std::cmp::Reverse;
use std::collections::btree_map::{BTreeMap, Entry};

use crate::inner::Address;
use crate::table::Table;

/// A network: the addresses that agree with `address` in the first `length` bits. The others are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: Address,
    length: u8,
}

impl Prefix {
    /// The network of `length` bits that `address` is in; None if the family has fewer bits.
    pub fn new(address: Address, length: u8) -> Option<Self> {
        (length <= address.bits()).then(|| Self { address: address.masked(length), length })
    }
}

/// What each prefix leads to.
#[derive(Clone, Debug)]
pub struct Routes<V> {
    v4: BTreeMap<Reverse<u8>, Table<Address, V>>,
    v6: BTreeMap<Reverse<u8>, Table<Address, V>>,
}

impl<V> Default for Routes<V> {
    fn default() -> Self {
        Self { v4: BTreeMap::new(), v6: BTreeMap::new() }
    }
}

impl<V: Copy + PartialEq> Routes<V> {
    /// Let `prefix` lead to `value`; what it led to before is returned.
    pub fn insert(&mut self, prefix: Prefix, value: V) -> Option<V> {
        let family = match prefix.address {
            Address::V4(_) => &mut self.v4,
            Address::V6(_) => &mut self.v6,
        };
        family.entry(Reverse(prefix.length)).or_default().insert(prefix.address, value)
    }

    /// Forget `prefix`.
    pub fn remove(&mut self, prefix: Prefix) -> Option<V> {
        let family = match prefix.address {
            Address::V4(_) => &mut self.v4,
            Address::V6(_) => &mut self.v6,
        };
        let Entry::Occupied(mut length) = family.entry(Reverse(prefix.length)) else {
            return None;
        };
        let removed = length.get_mut().remove(&prefix.address);
        if length.get().is_empty() {
            length.remove();
        }
        removed
    }

    /// Let `now` lead to `value` instead of those of `before` that still do.
    fn replace(&mut self, value: V, before: &[Prefix], now: &[Prefix]) {
        for &prefix in before {
            if self.exactly(prefix) == Some(value) {
                self.remove(prefix);
            }
        }
        for &prefix in now {
            self.insert(prefix, value);
        }
    }

    /// What `prefix` itself leads to.
    fn exactly(&self, prefix: Prefix) -> Option<V> {
        let family = match prefix.address {
            Address::V4(_) => &self.v4,
            Address::V6(_) => &self.v6,
        };
        family.get(&Reverse(prefix.length))?.get(&prefix.address).copied()
    }

    /// What the longest prefix that holds `address` leads to.
    #[inline]
    pub fn get(&self, address: Address) -> Option<V> {
        let family = match address {
            Address::V4(_) => &self.v4,
            Address::V6(_) => &self.v6,
        };
        family.iter().find_map(|(length, map)| map.get(&address.masked(length.0)).copied())
    }
}

/// Whom each inner address belongs to: exactly, else by the longest network that it is in. No two own the same.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    hosts: Table<Address, u32>,
    networks: Routes<u32>,
    owned: Table<u32, (Vec<Address>, Vec<Prefix>)>, // and what was taken from them since
}

impl Owners {
    /// Let `owner` have these, and nothing else; what another had of them is taken from that.
    pub fn give(&mut self, owner: u32, hosts: Vec<Address>, networks: Vec<Prefix>) {
        let (hosts_before, networks_before) = self.owned.remove(&owner).unwrap_or_default();
        for host in hosts_before {
            if self.hosts.get(&host) == Some(&owner) {
                self.hosts.remove(&host);
            }
        }
        self.hosts.extend(hosts.iter().map(|&host| (host, owner)));
        self.networks.replace(owner, &networks_before, &networks);
        if !(hosts.is_empty() && networks.is_empty()) {
            self.owned.insert(owner, (hosts, networks));
        }
    }

    /// Whose `address` is.
    #[inline]
    pub fn find(&self, address: Address) -> Option<u32> {
        self.hosts.get(&address).copied().or_else(|| self.networks.get(address))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{Address, Owners, Prefix, Routes};
    use crate::testing::Chance;

    /// Every prefix looked at, the longest that holds the address taken.
    fn naive(all: &HashMap<(Address, u8), u32>, address: Address) -> Option<u32> {
        let holds = |(network, length): &(Address, u8)| {
            network.bits() == address.bits()
                && (0..u32::from(*length)).all(|bit| match (*network, address) {
                    (Address::V4(one), Address::V4(other)) => (one ^ other) >> (31 - bit) & 1 == 0,
                    (Address::V6(one), Address::V6(other)) => (one ^ other) >> (127 - bit) & 1 == 0,
                    _ => false,
                })
        };
        all.iter().filter(|(prefix, _)| holds(prefix)).max_by_key(|((_, length), _)| *length).map(|(_, value)| *value)
    }

    /// Addresses that share their first bits more often than not, so that prefixes hold each other.
    fn address(chance: &mut Chance) -> Address {
        let low = chance.below(16) << chance.below(28) | chance.below(4);
        if chance.below(2) == 0 {
            Address::V4(0x0A00_0000 ^ low as u32)
        } else {
            Address::V6(0xFD00_u128 << 112 ^ u128::from(low) << (chance.below(3) * 40))
        }
    }

    #[test]
    fn routes_are_those_of_a_naive_table() {
        for seed in 0..8 {
            let mut chance = Chance::new(seed);
            let (mut routes, mut all) = (Routes::default(), HashMap::new());
            for value in 0..400 {
                let network = address(&mut chance);
                let length = chance.below(u64::from(network.bits()) + 1) as u8;
                let prefix = Prefix::new(network, length).expect("no longer than the address");
                let key = (network.masked(length), length);
                if chance.below(3) == 0 {
                    assert_eq!(routes.remove(prefix), all.remove(&key));
                } else {
                    assert_eq!(routes.insert(prefix, value), all.insert(key, value));
                }
                for _ in 0..20 {
                    let address = address(&mut chance);
                    assert_eq!(routes.get(address), naive(&all, address));
                }
            }
        }
        assert!(Prefix::new(Address::V4(0), 33).is_none());
    }

    /// What belongs to whom, gone through one by one: an exact address before networks, which have the longest first.
    fn naive_owner(all: &HashMap<(Address, u8, bool), u32>, address: Address) -> Option<u32> {
        let host = all.get(&(address, address.bits(), true)).copied();
        let networks = all.iter().filter(|((_, _, host), _)| !host);
        host.or_else(|| {
            naive(&networks.map(|((network, length, _), owner)| ((*network, *length), *owner)).collect(), address)
        })
    }

    #[test]
    fn owners_are_those_of_a_naive_table() {
        for seed in 0..8 {
            let mut chance = Chance::new(seed);
            let (mut owners, mut all) = (Owners::default(), HashMap::new());
            for _ in 0..200 {
                let owner = chance.below(12) as u32;
                let hosts: Vec<_> = (0..chance.below(3)).map(|_| address(&mut chance)).collect();
                let networks: Vec<_> = (0..chance.below(3))
                    .filter_map(|_| {
                        let network = address(&mut chance);
                        Prefix::new(network, chance.below(u64::from(network.bits()) + 1) as u8)
                    })
                    .collect();
                all.retain(|_, other| *other != owner);
                all.extend(hosts.iter().map(|host| ((*host, host.bits(), true), owner)));
                all.extend(networks.iter().map(|network| ((network.address, network.length, false), owner)));
                owners.give(owner, hosts, networks);
                for _ in 0..20 {
                    let address = address(&mut chance);
                    assert_eq!(owners.find(address), naive_owner(&all, address));
                }
            }
            for owner in 0..12 {
                owners.give(owner, vec![], vec![]);
            }
            assert!(owners.hosts.is_empty() && owners.networks.v4.is_empty() && owners.networks.v6.is_empty());
            assert!(owners.owned.is_empty());
        }
    }
}
