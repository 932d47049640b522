//! A page of the map of a layer.

use volume::layered::fuzzing;

/// Decodes one.
pub fn run(data: &[u8]) {
    fuzzing::map_page(data);
}

/// One that can be decoded, or several.
pub fn seeds() -> Vec<Vec<u8>> {
    vec![fuzzing::map_page_seed()]
}
