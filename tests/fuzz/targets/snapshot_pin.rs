//! Who relies on a snapshot.

use volume::snapshot::fuzzing;

/// Decodes one.
pub fn run(data: &[u8]) {
    fuzzing::pin(data);
}

/// One that can be decoded, or several.
pub fn seeds() -> Vec<Vec<u8>> {
    vec![fuzzing::pin_seed()]
}
