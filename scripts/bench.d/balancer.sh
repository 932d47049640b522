# shellcheck shell=bash
# Natively, on loopback addresses.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

# Not among what scripts/deps installs: on a machine with systemd they would begin to serve at once.
for program in nginx haproxy wrk h2load taskset; do
    command -v "$program" >/dev/null || fail "no $program: apt-get install --no-install-recommends nginx-light haproxy wrk nghttp2-client util-linux"
done
# Ten thousand idle connections, at both ends.
ulimit -n 20000
exec /usr/bin/python3 scripts/bench.d/balancer.py "$@"
