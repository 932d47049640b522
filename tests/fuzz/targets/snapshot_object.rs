//! What is around every object of a snapshot.

use volume::snapshot::fuzzing;

/// Decodes one.
pub fn run(data: &[u8]) {
    fuzzing::object(data);
}

/// One that can be decoded, or several.
pub fn seeds() -> Vec<Vec<u8>> {
    fuzzing::object_seeds()
}
