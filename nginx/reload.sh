#!/usr/bin/env bash
# Usage: reload.sh PREFIX CONFIGURATION [NGINX]
#
# Lets the nginx that runs in PREFIX read its configuration anew, and breaks no connection. Runs in the container and
# on the bare machine.
#
#   1. Check the configuration.
#   2. Have every answer end its connection (closing.conf), long enough for whoever is sending to get one.
#   3. Reload. The old workers drop the connections that are idle, and what a client has just sent on one is lost.
#   4. Wait until they have: before, their connections must not be kept again.
set -euo pipefail

CLOSING_SECONDS=1
QUIT_SECONDS=20   # a tenth is usual; a full machine needs longer

prefix=$1 configuration=$2 nginx=${3:-nginx}

die() { printf 'reload: %s\n' "$*" >&2; exit 1; }

takes_requests() { { tr -d '\0' <"/proc/$1/cmdline"; } 2>/dev/null | grep -q 'worker process$'; }

any_takes_requests() {
    local worker
    for worker in "$@"; do
        ! takes_requests "$worker" || return 0
    done
    return 1
}

"$nginx" -t -q -p "$prefix" -c "$configuration" || die 'nginx refuses its configuration, see above.'
master=$(cat "$prefix/nginx.pid") || die 'nginx does not run.'
grep -qsx nginx "/proc/$master/comm" || die 'nginx does not run; its pid file is of one that was killed.'
read -ra workers <<<"$(<"/proc/$master/task/$master/children")"

trap 'rm -f "$prefix/closing"' EXIT
touch "$prefix/closing"
sleep "$CLOSING_SECONDS"
kill -HUP "$master"
start=$SECONDS
while any_takes_requests "${workers[@]}"; do
    [ $((SECONDS - start)) -lt "$QUIT_SECONDS" ] || die 'nginx did not take its new configuration, see its log.'
    sleep 0.05
done
