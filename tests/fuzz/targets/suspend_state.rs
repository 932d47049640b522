//! The state of a suspended guest, behind a header and before a checksum that are right: a fuzzer would not get past these.

use vmm::suspend::fuzzing;

/// Decodes one.
pub fn run(data: &[u8]) {
    fuzzing::state(data);
}

/// One of a CPU and a device.
pub fn seeds() -> Vec<Vec<u8>> {
    vec![fuzzing::state_seed()]
}
