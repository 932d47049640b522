//! Which failures are for good.

use std::io::ErrorKind;

use ::volume::VolumeError;
use ::volume::crypt::KeyError;
use ::volume::snapshot::SnapshotError;

/// Whether something would fail as well if it were tried again: what it needs is gone, damaged or not what it should be. All else, such as a disk that is
/// full or a store that does not answer, may be over soon.
pub(crate) fn is_final(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref().is_some_and(is_final_of_snapshot)
            || cause.downcast_ref().is_some_and(is_final_of_volume)
            || cause.downcast_ref().is_some_and(is_final_of_key)
    })
}

fn is_final_of_snapshot(error: &SnapshotError) -> bool {
    match error {
        SnapshotError::Volume(error) => is_final_of_volume(error),
        SnapshotError::Key(error) => is_final_of_key(error),
        SnapshotError::Damaged { .. }
        | SnapshotError::NotFound { .. }
        | SnapshotError::OtherLineage { .. }
        | SnapshotError::TooSmall { .. }
        | SnapshotError::OutOfRange { .. }
        | SnapshotError::NeedsKey { .. } => true,
        SnapshotError::Store(_) | SnapshotError::Stopped | SnapshotError::NoName { .. } => false,
    }
}

fn is_final_of_volume(error: &VolumeError) -> bool {
    match error {
        VolumeError::Key(error) => is_final_of_key(error),
        VolumeError::Damaged { .. }
        | VolumeError::Exists { .. }
        | VolumeError::BadSize { .. }
        | VolumeError::CannotShrink { .. }
        | VolumeError::NotEncrypted => true,
        _ => false,
    }
}

fn is_final_of_key(error: &KeyError) -> bool {
    match error {
        KeyError::BadName { .. }
        | KeyError::Unknown { .. }
        | KeyError::Rejected { .. }
        | KeyError::Mode { .. }
        | KeyError::Owner { .. }
        | KeyError::Damaged { .. } => true,
        // Without the file there is no key at all.
        KeyError::File { source, .. } => source.kind() == ErrorKind::NotFound,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn what_is_gone_or_damaged_is_for_good_and_what_a_disk_says_is_not() {
        let wrapped =
            |error: VolumeError| anyhow::Error::new(error).context("cannot make it").context("again");
        let unknown = || KeyError::Unknown { name: "web".parse().unwrap(), path: "/keys".into() };
        let damaged =
            || VolumeError::Damaged { file: "volume".to_owned(), offset: 7, what: "the end is missing" };
        assert!(is_final(&wrapped(damaged())) && is_final(&wrapped(unknown().into())));
        assert!(is_final(&anyhow::Error::new(SnapshotError::Volume(damaged()))));
        assert!(is_final(&anyhow::Error::new(SnapshotError::Key(unknown()))));
        let fetch = VolumeError::Fetch { source: Box::new(SnapshotError::Volume(damaged())) };
        assert!(is_final(&wrapped(fetch)));
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let write = VolumeError::Io { operation: "write", file: "layer-1".to_owned(), source: full() };
        assert!(!is_final(&wrapped(write)) && !is_final(&wrapped(VolumeError::InUse)));
        assert!(!is_final(&anyhow::Error::new(SnapshotError::Stopped)));
        let cannot: Result<(), _> = Err(full());
        assert!(!is_final(&cannot.context("cannot write it down").unwrap_err()));
    }
}
