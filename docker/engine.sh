#!/usr/bin/env bash
# Makes a Docker Engine with Compose v2 and buildx answer on a Debian machine.
# Run it as root. Where all three answer already, it does nothing.
#
#   1. Leave if everything answers.
#   2. Install Debian's docker.io if there is no dockerd.
#   3. Start dockerd if nothing answers, and wait for it.
#   4. Put in the Compose and buildx plugins if they are missing or too old.
#
# Everything comes from Debian's own packages, by the mirror that this machine's apt already uses.
set -euo pipefail

MIN_COMPOSE=2.24.0   # compose.yaml says `env_file: required: false`; older ones refuse the whole file
START_SECONDS=60     # dockerd is up in 2 s here; a slow disk with many old containers takes far longer
GIVEN_WAY_SECONDS=5   # a second dockerd ends at once with "pid file found"; the first is then nearly up
SUITES='trixie testing'   # where Compose v2 is packaged; bookworm's docker-compose is the old 1.29
LOG=/var/log/dockerd.log

# /usr/local/lib and not ~/.docker: every user's client looks here, also under sudo, in a service
# or with another DOCKER_CONFIG, and no package owns a file there that a later upgrade could replace.
PLUGINS=/usr/local/lib/docker/cli-plugins

say() { printf 'engine: %s\n' "$*"; }
die() { printf 'engine: %s\n' "$*" >&2; exit 1; }

# ---- what answers ----

# A dockerd that hangs would make `docker info` wait for ever.
engine_answers() { timeout 10 docker info >/dev/null 2>&1; }

buildx_answers() { docker buildx version >/dev/null 2>&1; }

compose_answers() {
    local found
    found=$(docker compose version --short 2>/dev/null) && new_enough "$found"
}

new_enough() { printf '%s\n%s\n' "$MIN_COMPOSE" "${1#v}" | sort -V -C; }

all_answer() { engine_answers && compose_answers && buildx_answers; }

# ---- packages ----

refuse_other_machines() {
    [ "$(id -u)" = 0 ] ||
        die 'no complete Docker answers here, and installing or starting one needs root: run this with sudo.'
    grep -qsx 'ID=debian' /etc/os-release ||
        die 'no complete Docker answers here, and this script can only install one on Debian: install Docker Engine, Compose v2 and buildx yourself.'
}

# Recommended packages are left out: docker.io's would bring git and more that nothing here uses.
apt_install() {
    say "installing $*"
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >"$tmp/apt.log" 2>&1 || {
        tail -n 20 "$tmp/apt.log" >&2
        die "apt-get could not install $*"
    }
}

# One unreachable third-party source makes it fail; what is needed may well be there all the same.
update_lists() {
    say 'reading the package lists'
    apt-get update -qq >"$tmp/apt.log" 2>&1 || say "apt-get update complained, going on: $(tail -n 1 "$tmp/apt.log")"
}

install_engine() {
    update_lists
    set -- docker.io iptables ca-certificates
    # With AppArmor on in the kernel and no parser to load its profile, no container starts.
    if grep -qsx Y /sys/module/apparmor/parameters/enabled; then
        set -- "$@" apparmor
    fi
    apt_install "$@"
    # Since Debian 13 the client is a package of its own that docker.io only recommends.
    command -v docker >/dev/null || apt_install docker-cli
}

# ---- the daemon ----

# dockerd refuses to start, or waits in vain for its containerd, when a pid file left by a killed
# one names a number that some other process has since been given.
drop_stale_pid_file() {
    local file=$1 name=$2 pid
    pid=$(cat "$file" 2>/dev/null) || return 0
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$name" ] || rm -f "$file"
}

# The bridge would get an MTU of 1500 even where the machine's own link carries less (tunnels, some
# clouds); where the "too big" answers get lost, downloads in containers and builds then hang.
link_mtu() {
    local device
    device=$(awk '$2 == "00000000" { print $1; exit }' /proc/net/route 2>/dev/null) || true
    cat "/sys/class/net/$device/mtu" 2>/dev/null || echo 1500
}

start_engine() {
    if [ -d /run/systemd/system ]; then
        say 'starting docker.service'
        systemctl start docker || die 'docker.service did not start: see journalctl -u docker.'
        return
    fi
    say "starting dockerd, its log is $LOG"
    drop_stale_pid_file /var/run/docker.pid dockerd
    drop_stale_pid_file /var/run/docker/containerd/containerd.pid containerd
    # A session of its own: Ctrl-C, or the end of the shell or CI step that ran this, must not end it.
    setsid dockerd --mtu "$(link_mtu)" </dev/null >>"$LOG" 2>&1 &
    dockerd=$!
}

wait_for_engine() {
    local deadline=$((SECONDS + START_SECONDS))
    until engine_answers; do
        # One that has ended will not come back. It may have given way to another that is starting.
        if [ -n "$dockerd" ] && ! kill -0 "$dockerd" 2>/dev/null; then
            dockerd=
            deadline=$((SECONDS + GIVEN_WAY_SECONDS))
        fi
        if [ "$SECONDS" -ge "$deadline" ]; then
            tail -n 20 "$LOG" >&2 || true
            die 'no Docker Engine came up; above is the end of its log.'
        fi
        sleep 0.5
    done
}

# ---- the plugins ----

# The address is not written here: a machine behind a mirror of its own must go on using that.
# Only Debian's main archive has this label; updates share it and its address, security has another.
# shellcheck disable=SC2016  # apt fills in these names, not the shell
mirror() {
    apt-get indextargets --format '$(LABEL)|$(REPO_URI)' 2>/dev/null | awk -F '|' '$1 == "Debian" && !n++ { print $2 }'
}

# apt with its own sources, lists and cache, so that the machine's packages never mix with the other
# suite's. The rest of its configuration (a proxy, for one) is the machine's. Check-Valid-Until is off
# because a mirror frozen in time serves lists that count as expired. The sandbox user cannot enter
# the temporary folder, which is root's alone.
private_apt() {
    local suite=$1
    shift
    apt-get -qq \
        -o Dir::Etc::SourceList="$tmp/$suite/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
        -o Dir::State::Lists="$tmp/$suite/lists" -o Dir::Cache="$tmp/$suite/cache" \
        -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none -o APT::Sandbox::User=root "$@"
}

unpack_plugins() {
    local suite=$1 mirror=$2 deb
    mkdir -p "$tmp/$suite"/{lists,cache,tree}
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$tmp/$suite/sources.list"
    private_apt "$suite" update || return 1
    (cd "$tmp/$suite" && private_apt "$suite" download docker-compose docker-buildx) || return 1
    for deb in "$tmp/$suite"/*.deb; do
        dpkg -x "$deb" "$tmp/$suite/tree"
    done
}

# Run before it is copied: on an old machine the newer suite's program may not find the C library it needs.
plugin_runs() {
    local found
    found=$("$1/docker-compose" version --short 2>/dev/null) && new_enough "$found" && "$1/docker-buildx" version >/dev/null 2>&1
}

install_plugins() {
    local suite from mirror
    mirror=$(mirror)
    if [ -z "$mirror" ]; then   # a fresh machine has no lists yet, and without them apt does not tell
        update_lists
        mirror=$(mirror)
    fi
    [ -n "$mirror" ] || die "this machine's apt knows no Debian mirror."
    for suite in $SUITES; do
        say "taking the Compose and buildx plugins from $suite"
        from=$tmp/$suite/tree/usr/libexec/docker/cli-plugins
        if unpack_plugins "$suite" "$mirror" && plugin_runs "$from"; then
            install -D -m 755 -t "$PLUGINS" "$from/docker-compose" "$from/docker-buildx"
            return
        fi
    done
    die "none of these suites has a Compose of at least $MIN_COMPOSE and a buildx that run here: $SUITES"
}

# ---- the steps ----

if all_answer; then
    say 'Docker Engine, Compose and buildx answer already: nothing to do.'
    exit 0
fi
refuse_other_machines

dockerd=   # the process that we started, if we did
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

if ! engine_answers; then
    if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null; then
        install_engine
    fi
    # The package may have started it already; a second dockerd would only write an error to the log.
    engine_answers || start_engine
    wait_for_engine
fi
if ! compose_answers || ! buildx_answers; then
    install_plugins
fi

# An old plugin in ~/.docker/cli-plugins wins over ours; say so instead of failing at `up`.
all_answer || die "installed the plugins in $PLUGINS, but the client still does not find a new enough one: look in ~/.docker/cli-plugins."
say "Docker Engine $(docker version --format '{{.Server.Version}}'), Compose $(docker compose version --short), $(docker buildx version | cut -d ' ' -f 1-2) answer."
