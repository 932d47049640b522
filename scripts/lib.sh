# Sourced by the scripts beside it, in the root of the checkout: how they speak, what they build.
# shellcheck shell=bash

# Print one line about what is being done.
say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# Print what is wrong and what to do about it, and end.
fail() {
    say "$*"
    exit 1
}

# Where the release build puts its programs.
programs=$PWD/target/x86_64-unknown-linux-gnu/release

build_programs() { cargo build --release --locked --package nimbo --package nimbo-init; }

# Build the image NAME, or find it built, and print its path.
image() { scripts/image "$1" | tail -n 1; }

# Run a command where stock kernels boot: here when this machine's KVM is the processor's, or else in the lab.
with_kvm() {
    if "$programs/nimbo" doctor kvm-speed >/dev/null; then
        "$@"
    else
        say "no hardware KVM here (see nimbo doctor): runs in the lab"
        scripts/lab -- "$@"
    fi
}
