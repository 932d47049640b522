# shellcheck shell=bash
# Natively, on a file system with direct I/O.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

cargo build --release --locked --package volume --features testing --examples
cargo build --release --locked --package objects --examples
NIMBO_EXAMPLES=$programs/examples exec /usr/bin/python3 scripts/bench.d/volume.py "$@"
