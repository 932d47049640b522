//! A record of the log of a layer.

use volume::layered::fuzzing;

/// Decodes one.
pub fn run(data: &[u8]) {
    fuzzing::record(data);
}

/// One that can be decoded, or several.
pub fn seeds() -> Vec<Vec<u8>> {
    fuzzing::record_seeds()
}
