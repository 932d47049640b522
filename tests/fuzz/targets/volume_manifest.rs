//! The manifest of a volume.

use volume::layered::fuzzing;

/// Decodes one.
pub fn run(data: &[u8]) {
    fuzzing::manifest(data);
}

/// One that can be decoded, or several.
pub fn seeds() -> Vec<Vec<u8>> {
    fuzzing::manifest_seeds()
}
