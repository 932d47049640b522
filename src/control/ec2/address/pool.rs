//! The public addresses: all accounts and regions have theirs of one [pool](crate::public_pool).

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use aws::Error;

use crate::state::{Key, Transaction, View};

/// A public address that nobody has. It is had by who puts it in a record in this transaction.
///
/// # Errors
/// When all of them are had.
pub(crate) fn take_public(tx: &mut Transaction<'_>) -> Result<Ipv4Addr, Error> {
    let start = random(tx);
    let pool = tx.view().state.public_pool.addresses();
    any_free(pool, start, |address| is_free(tx.view(), address)).ok_or_else(|| {
        let message = "There are not enough free public addresses to satisfy your request.";
        Error::new("InsufficientAddressCapacity", message)
    })
}

/// That public address, if nobody has it.
///
/// # Errors
/// When somebody has, or it is not in the pool.
pub(super) fn take_this(tx: &Transaction<'_>, address: Ipv4Addr) -> Result<Ipv4Addr, Error> {
    let pool = tx.view().state.public_pool.addresses();
    if pool.contains(&address) && is_free(tx.view(), address) {
        return Ok(address);
    }
    let (first, last) = pool.into_inner();
    let message = format!("The address '{address}' is none of {first} to {last} that nobody has.");
    Err(Error::new("InvalidAddress.NotFound", message))
}

fn is_free(view: View<'_>, address: Ipv4Addr) -> bool {
    let key = Key::PublicAddress(address);
    view.state.spaces().all(|(_, tables)| {
        tables.addresses.keyed(&key).is_none() && tables.network_interfaces.keyed(&key).is_none()
    })
}

/// For [`any_free`].
pub(in crate::ec2) fn random(tx: &mut Transaction<'_>) -> u32 {
    let mut bytes = [0; 4];
    tx.fill(&mut bytes);
    u32::from_le_bytes(bytes)
}

/// A free address of `all`: the first one from a place that `start` says. Where most are free it is found at once, whatever the size.
pub(in crate::ec2) fn any_free(
    all: RangeInclusive<Ipv4Addr>,
    start: u32,
    is_free: impl Fn(Ipv4Addr) -> bool,
) -> Option<Ipv4Addr> {
    let (first, last) = (u32::from(*all.start()), u32::from(*all.end()));
    let span = u64::from(last.checked_sub(first)?) + 1;
    let place = |step| u32::try_from((u64::from(start) + step) % span).ok().map(|offset| first + offset);
    (0..span).filter_map(place).map(Ipv4Addr::from).find(|address| is_free(*address))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_address_is_given_once_and_no_other(first: u32, span in 1u32..40, starts in prop::collection::vec(any::<u32>(), 40)) {
            let first = first.min(u32::MAX - span);
            let all = Ipv4Addr::from(first)..=Ipv4Addr::from(first + span - 1);
            let mut taken = BTreeSet::new();
            for start in starts {
                match any_free(all.clone(), start, |address| !taken.contains(&address)) {
                    Some(address) => {
                        prop_assert!(all.contains(&address));
                        prop_assert!(taken.insert(address));
                    }
                    None => prop_assert_eq!(taken.len(), usize::try_from(span).unwrap()),
                }
            }
            prop_assert_eq!(taken.len(), usize::try_from(span).unwrap());
        }
    }

    #[test]
    fn a_range_of_none_has_none_free() {
        let [low, high] = [5, 4].map(Ipv4Addr::from);
        assert_eq!(any_free(low..=high, 7, |_| true), None);
    }
}
