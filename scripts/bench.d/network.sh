# shellcheck shell=bash
# Natively, as root: namespaces joined by pairs of interfaces, and nothing else of the machine's network.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

cargo build --release --locked --package network --examples
# Each interface that nobody measures is a tap that stays open.
ulimit -n 4096
NIMBO_EXAMPLES=$programs/examples exec /usr/bin/python3 scripts/bench.d/network.py "$@"
