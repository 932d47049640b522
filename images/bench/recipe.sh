# shellcheck shell=bash disable=SC2034
# The tiny image with what measures disks and networks: the guest of scripts/bench.

# shellcheck source=images/tiny/recipe.sh
source "$IMAGES/tiny/recipe.sh"

SOURCES+=(tiny)
PACKAGES+=(fio iperf3)
PROGRAMS+=(/usr/bin/fio /usr/bin/iperf3)
DISK_SIZE=$((160 << 20))
