# shellcheck shell=bash
# Natively, on loopback addresses.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

# Not among what scripts/deps installs: on a machine with systemd it would begin to serve at once.
for program in ganesha.nfsd taskset; do
    command -v "$program" >/dev/null || fail "no $program: apt-get install --no-install-recommends nfs-ganesha nfs-ganesha-vfs util-linux"
done
cargo build --quiet --release --package nfs --example load
export NFS_LOAD=target/x86_64-unknown-linux-gnu/release/examples/load
exec /usr/bin/python3 scripts/bench.d/nfs.py "$@"
