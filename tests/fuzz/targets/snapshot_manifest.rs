//! The manifest of a snapshot.

use volume::snapshot::fuzzing;

/// Decodes one.
pub fn run(data: &[u8]) {
    fuzzing::manifest(data);
}

/// One that can be decoded, or several.
pub fn seeds() -> Vec<Vec<u8>> {
    fuzzing::manifest_seeds()
}
