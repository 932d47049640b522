# shellcheck shell=bash
# The payload natively, whatever KVM there is; Linux where stock kernels boot.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

NIMBO_IMAGE_BENCH=$(image bench)
export NIMBO_IMAGE_BENCH
/usr/bin/python3 scripts/bench.d/boot.py payload "$@"
with_kvm /usr/bin/python3 scripts/bench.d/boot.py linux "$@"
