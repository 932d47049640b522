# shellcheck shell=bash
# Natively, with a state folder on a file system of the machine's disk; what launches guests, where stock kernels boot.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

cargo build --release --locked --package aws --example replay
NIMBO_REPLAY=$programs/examples/replay NIMBO_MOTO=$PWD/.cache/moto/bin/moto_server \
    .cache/moto/bin/python scripts/bench.d/api.py "$@"
NIMBO_IMAGE_TINY=$(image tiny)
export NIMBO_IMAGE_TINY
PYTHONPATH=$(echo "$PWD"/.cache/aws/lib/python3*/site-packages) with_kvm /usr/bin/python3 scripts/bench.d/running.py
