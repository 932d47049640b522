//! The header of a layer of a volume.

use volume::layered::fuzzing;

/// Decodes one.
pub fn run(data: &[u8]) {
    fuzzing::header(data);
}

/// One that can be decoded, or several.
pub fn seeds() -> Vec<Vec<u8>> {
    vec![fuzzing::header_seed()]
}
