# shellcheck shell=bash
# What the person who waits is told, on standard error: one line per stage with the seconds it took; on a
# terminal the line of the running stage counts. What a stage prints goes to $LOG and is shown if it fails.

# stage TEXT COMMAND ARGS...: runs the command in a subshell that stops at its first error.
stage() {
    local text=$1 start=$SECONDS pid status=0
    shift
    [[ -t 2 ]] || say "$NAME: $text ..."
    # In the background, because bash ignores `set -e` in a command whose status is tested.
    (
        set -e
        "$@"
    ) >"$LOG" 2>&1 9>&- &
    pid=$!
    while [[ -t 2 ]] && kill -0 "$pid" 2>/dev/null; do
        printf '\rimage: %s: %s ... %d s' "$NAME" "$text" $((SECONDS - start)) >&2
        sleep 0.2
    done
    wait "$pid" || status=$?
    [[ ! -t 2 ]] || printf '\r\033[K' >&2
    if ((status != 0)); then
        tail -n 40 "$LOG" >&2
        fail "$NAME: could not $text (exit status $status)"
    fi
    say "$NAME: $text: $((SECONDS - start)) s"
}
