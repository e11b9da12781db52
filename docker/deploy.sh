#!/usr/bin/env bash
# Replaces all servers of the Compose stack while it serves. `make deploy STACK=docker` calls this.
#
#   1. Build, and let the new image read the settings.
#   2. Let nginx read its configuration anew (nginx/reload.sh).
#   3. Start as many new servers beside the old ones.
#   4. Wait until all new ones are healthy; else drain and remove those, and keep the old.
#   5. Stop the old ones, one by one: each drains. Remove them.
set -euo pipefail
cd "$(dirname "$0")/.."

READY_SECONDS=90   # a healthy one takes 4 s; one that cannot boot is noticed at once

say() { printf 'deploy: %s\n' "$*"; }
die() { printf 'deploy: %s\n' "$*" >&2; exit 1; }

# What Compose makes of compose.yaml, .env and the environment.
configured() { docker compose config --format json | python3 -c "import json, sys; it = json.load(sys.stdin); print($1)"; }

# Not what `docker compose run` has started, a backup for instance.
servers() {
    docker ps --all --quiet --no-trunc --filter label=com.docker.compose.oneoff=False \
        --filter "label=com.docker.compose.project=$project" --filter label=com.docker.compose.service=server | sort
}

new_ones() { comm -13 <(printf '%s\n' "${old[@]}") <(servers); }

about() { docker inspect --format "$1" "${@:2}"; }

stop() {
    docker stop "$1" >/dev/null
    docker rm "$1" >/dev/null
}

# Also at Ctrl-C. The name of the image goes back to what runs, or the next `up` would bring the new one after all.
keep_the_old() {
    local id
    trap '' INT TERM
    for id in $(new_ones); do
        docker logs --tail 20 "$id" >&2 || true
        stop "$id" || true
    done
    docker tag "$image" "$name"
    say 'not deployed; the old servers go on.' >&2
}

# Docker starts a container anew that ended by itself.
cannot_boot() { about '{{.State.Status}} {{.RestartCount}}' "$@" | grep -qv '^running 0$'; }

all_healthy() { [ "$(about '{{.State.Health.Status}}' "$@" | grep -cx healthy)" -eq $# ]; }

wait_until_healthy() {
    local start=$SECONDS
    until all_healthy "$@"; do
        ! cannot_boot "$@" || die 'a new server cannot boot, see below.'
        [ $((SECONDS - start)) -lt "$READY_SECONDS" ] || die "a new server is not healthy after $READY_SECONDS s, see below."
        sleep 0.3
    done
}


# ---- the steps ----

# The lock ends with this script. Two deployments at once would take each other's new servers for old ones.
exec 9<compose.yaml
flock --nonblock 9 || die 'another deployment is under way.'

project=$(configured 'it["name"]')
mapfile -t old < <(servers)
[ ${#old[@]} -gt 0 ] || die 'nothing runs that could be replaced: start it with make up.'
# nginx stays: servers without keys must not get behind one that others reach.
bind=$(configured 'it["services"]["nginx"]["ports"][0]["host_ip"]')
published=$(about '{{range .HostConfig.PortBindings}}{{range .}}{{.HostIp}}{{end}}{{end}}' "$(docker compose ps --all --quiet nginx)")
[ "$published" = "$bind" ] || die "BIND is $bind, nginx listens on $published: that needs a new start, make down, then make up."
# Nor must a deployment lose these because somebody forgot to say them.
for setting in API_KEYS_FILE JOBS CALLBACK_SECRET; do
    before=$(about '{{range .Config.Env}}{{println .}}{{end}}' "${old[0]}" | sed -n "s/^$setting=//p")
    now=$(configured "it['services']['server']['environment'].get('$setting') or ''")
    [ -z "$before" ] || [ -n "$now" ] || die "$setting is not set, and is where the stack runs: set it, in .env for instance.
To do without: make down, then make up. For the jobs that come with it: JOBS=service.jobs"
done
image=$(about '{{.Image}}' "${old[0]}")
name=$(about '{{.Config.Image}}' "${old[0]}")
trap keep_the_old EXIT

docker compose build server
docker compose run --rm --no-deps --no-TTY server timeout 60 python -m service check | tee /dev/stderr |
    grep -q 'the settings and the jobs are good' || die 'the new settings or jobs are not good, or take more than 60 s to import.'
docker compose exec --no-TTY nginx /etc/nginx/reload.sh /tmp/ /etc/nginx/nginx.conf
say 'nginx has read its configuration anew'

say "starting ${#old[@]} new servers beside the old"
docker compose up --detach --no-deps --no-recreate --scale server=$((2 * ${#old[@]})) server
mapfile -t new < <(new_ones)
[ ${#new[@]} -eq ${#old[@]} ] || die "${#new[@]} new servers are there, not ${#old[@]}."
wait_until_healthy "${new[@]}"
trap - EXIT
trap '' INT TERM  # it is decided: half of the old ones beside the new would count as servers for ever

say 'the new ones are healthy'
for id in "${old[@]}"; do
    say "draining $(about '{{.Name}}' "$id")"
    stop "$id"
done
say "deployed: ${#new[@]} new servers"
