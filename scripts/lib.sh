# Sourced by the scripts beside it: how they speak.
# shellcheck shell=bash

# Print one line about what is being done.
say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# Print what is wrong and what to do about it, and end.
fail() {
    say "$*"
    exit 1
}
