//! What a guest or a client can send, as functions of bytes: one module for each target. libFuzzer drives them (`libfuzzer/`), and
//! so does a test, for a moment each, with bytes of its own (`smoke.rs`).
//!
//! In all of them must hold: no panic, no hang, no memory beyond what the input justifies. What else must hold is
//! asserted where it can be said.

#![deny(unsafe_code)]

mod driver;
mod input;
#[allow(unsafe_code)]
mod sys;
mod targets;

pub use targets::*;

/// What can be fuzzed.
pub struct Target {
    pub name: &'static str,
    /// Uses one input.
    pub run: fn(&[u8]),
    /// Inputs from which others are made.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

macro_rules! targets {
    ($($name:ident),+) => {
        /// All targets, by name.
        pub const TARGETS: &[Target] =
            &[$(Target { name: stringify!($name), run: $name::run, seeds: $name::seeds }),+];
    };
}

/// The one list of targets: calls the macro `$with` with their names.
#[macro_export]
macro_rules! for_targets {
    ($with:ident) => {
        $with!(
            aws_cbor,
            aws_json,
            aws_query,
            aws_request,
            capture,
            control_http,
            dhcp,
            disk_boot,
            dns,
            http2_fields,
            http2_frames,
            http_request,
            http_response,
            imds,
            kernel,
            nbd,
            nfs,
            pci,
            platform,
            qcow2,
            snapshot_manifest,
            snapshot_object,
            snapshot_page,
            snapshot_pin,
            suspend_state,
            vhost_user,
            virtio_balloon,
            virtio_block,
            virtio_net,
            virtio_rng,
            virtio_vsock,
            volume_header,
            volume_manifest,
            volume_map_page,
            volume_record
        );
    };
}

for_targets!(targets);
