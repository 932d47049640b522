# shellcheck shell=bash
# Natively, with a state folder on a file system of the machine's disk.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

cargo build --release --locked --package aws --example replay
NIMBO_REPLAY=$programs/examples/replay NIMBO_MOTO=$PWD/.cache/moto/bin/moto_server \
    exec .cache/moto/bin/python scripts/bench.d/api.py "$@"
