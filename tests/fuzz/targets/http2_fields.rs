//! Blocks of fields that a balancer's clients and targets send: whatever they are, what is kept of them is bounded.

use balancer::http2::{Decoder, Fields};

/// Names, values, and 32 bytes for each field.
const FIELDS_BYTES_MAX: usize = 64 << 10;

pub fn run(data: &[u8]) {
    let (mut decoder, mut fields) = (Decoder::default(), Fields::default());
    // Several blocks of one connection, since each builds on those before: the first byte of each is its length.
    let mut rest = data;
    while let Some((length, after)) = rest.split_first() {
        let (block, after) = after.split_at(after.len().min(usize::from(*length)));
        if decoder.decode(block, &mut fields).is_err() {
            return;
        }
        let size: usize = fields.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
        assert!(size <= FIELDS_BYTES_MAX);
        rest = after;
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    // RFC 7541, C.4 and C.6.
    [
        "118286844 18cf1e3c2e5f23a6ba0ab90f4ff 0c828684be5886a8eb10649cbf 18828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        "36 488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3 08 4883640effc1c0bf",
        "023fe1 0120 0100 06400161016280",
    ]
    .map(bytes)
    .to_vec()
}

pub(super) fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hex.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit.to_le_bytes()[0]).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
