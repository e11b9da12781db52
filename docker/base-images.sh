#!/usr/bin/env bash
# Usage: [FORCE=1] docker/base-images.sh [python] [nginx] [machine]      (default: python nginx)
#
# Builds stand-ins for the official base images from Debian packages, under the official names, for
# places where no image registry can be reached. Also the image `machine`: what a fresh Debian
# machine is, for tests. Building needs root on a Debian machine, and a Docker Engine.
#
#   1. Leave alone an image that is here already.
#   2. Pull the official one where a registry answers: it wins when it can be had.
#   3. Else let mmdebstrap build a file system from the packages, and import it.
#
# FORCE=1 skips 1 and 2. A stand-in carries the label
# org.opencontainers.image.title="stand-in built from Debian packages".
set -euo pipefail

PYTHON=python:3.14-slim-trixie
NGINX=nginx:1.30
MACHINE=stormdrain-machine:bookworm   # a name of our own, so it is never looked for in a registry

STAND_IN='stand-in built from Debian packages'
REGISTRY_SECONDS=10   # to answer at all; a network that drops the packets would hold us for minutes
PULL_SECONDS=600      # for the whole image once the registry has answered
FORCE=${FORCE:-}

say() { printf 'base-images: %s\n' "$*"; }
die() { printf 'base-images: %s\n' "$*" >&2; exit 1; }

# ---- the three images ----

# Debian's Python refuses `pip install` outside a venv. Making /usr/local one gives python, python3
# and pip in /usr/local/bin, installing under /usr/local, as in the official image; a venv made by
# these is an ordinary one on /usr/bin/python3.14. The import at the end stops the build when a
# module that Debian packages apart is missing.
# shellcheck disable=SC2016  # mmdebstrap's shell gets the hook with the new root as $1
build_python() {
    build "$PYTHON" python3.14 "deb $(mirror Debian) testing main" \
        python3.14,python3.14-venv,ca-certificates '
            chroot "$1" python3.14 -m venv /usr/local
            rm -f "$1"/usr/local/bin/[Aa]ctivate*
            chroot "$1" /usr/local/bin/python -c "import ctypes, multiprocessing, sqlite3, ssl, venv"
            chroot "$1" /usr/local/bin/pip --version' \
        "LABEL org.opencontainers.image.title=\"$STAND_IN\"" \
        'ENV LANG=C.UTF-8' 'CMD ["python3"]'
}

# What the official image has and Debian leaves out or does otherwise: the user nginx with uid and
# gid 101, conf.d without a default site beside it, logs on standard output and error (uid 101
# could not open the files) and a cache folder. The official STOPSIGNAL, SIGQUIT, cannot be given to
# an import: compose.yaml must say it, or `docker stop` cuts off the requests in flight.
# shellcheck disable=SC2016  # mmdebstrap's shell gets the hook with the new root as $1
build_nginx() {
    build "$NGINX" nginx "deb $(mirror Debian) testing main" \
        nginx,ca-certificates '
            chroot "$1" groupadd --system --gid 101 nginx
            chroot "$1" useradd --system --uid 101 --gid 101 --home-dir /nonexistent --no-create-home --shell /bin/false nginx
            rm -rf "$1"/etc/nginx/sites-enabled/*
            sed -i "s/^user .*/user nginx;/" "$1/etc/nginx/nginx.conf"
            echo "server { listen 80; root /usr/share/nginx/html; }" >"$1/etc/nginx/conf.d/default.conf"
            install -d -o 101 -g 101 "$1/var/cache/nginx"
            ln -sf /dev/stdout "$1/var/log/nginx/access.log"
            ln -sf /dev/stderr "$1/var/log/nginx/error.log"
            chroot "$1" nginx -t' \
        "LABEL org.opencontainers.image.title=\"$STAND_IN\"" \
        'EXPOSE 80' "CMD [\"nginx\", \"-g\", \"daemon off;\"]"
}

build_machine() {
    local main security
    main=$(mirror Debian)
    security=$(mirror Debian-Security)
    build "$MACHINE" python3 "deb $main bookworm main
deb $main bookworm-updates main
${security:+deb $security bookworm-security main}" \
        python3,python3-venv,make,git,curl,ca-certificates true \
        'LABEL org.opencontainers.image.title="bare Debian machine for tests"' \
        'ENV LANG=C.UTF-8' 'CMD ["bash"]'
}

image_of() {
    case $1 in
        python) echo "$PYTHON" ;;
        nginx) echo "$NGINX" ;;
        machine) echo "$MACHINE" ;;
        *) die "there is no image called '$1': say python, nginx or machine." ;;
    esac
}

# ---- long commands ----

# begin COMMAND...: starts it as a session of its own, so that all its processes can be ended
# together, and so that a background apt or dpkg is not stopped for touching the terminal.
begin() {
    setsid "$@" </dev/null &
    child=$!
}

# mmdebstrap gets the time to unmount and remove what it made.
stop_child() {
    trap '' TERM
    kill -TERM -- "-$child" 2>/dev/null || true
    wait "$child" || true
    exit 130
}

# ---- what is here, and what a registry has ----

is_here() { docker image inspect "$1" >/dev/null 2>&1; }

is_stand_in() {
    [ "$(docker image inspect --format '{{index .Config.Labels "org.opencontainers.image.title"}}' "$1" 2>/dev/null)" = "$STAND_IN" ]
}

megabytes() { echo "$(($(docker image inspect --format '{{.Size}}' "$1") / 1000000)) MB"; }

# The short limit is for the first word from a registry only: a slow line may take minutes for the
# layers, and giving up on those would put a stand-in where the official image could be had.
pull() {
    local what=$1 image log=$tmp/$1.pull start=$SECONDS
    image=$(image_of "$what")
    [ "$image" != "$MACHINE" ] || return 1
    begin timeout "$PULL_SECONDS" docker pull "$image" >"$log" 2>&1
    until grep -q 'Pulling from' "$log" || ! kill -0 "$child" 2>/dev/null; do
        [ $((SECONDS - start)) -lt "$REGISTRY_SECONDS" ] || kill -TERM -- "-$child"
        sleep 0.1
    done
    wait "$child" || return 1
    say "$image pulled, $(megabytes "$image"), $((SECONDS - start)) s"
}

# ---- building ----

# The address is not written here: a machine behind a mirror of its own must go on using that.
# Debian's main archive has the label Debian, its security archive Debian-Security.
# shellcheck disable=SC2016  # apt fills in these names, not the shell
mirror() {
    apt-get indextargets --format '$(LABEL)|$(REPO_URI)' | awk -F '|' -v label="$1" '$1 == label && !n++ { print $2 }'
}

prepare_machine() {
    [ "$(id -u)" = 0 ] || die 'building an image from Debian packages needs root: run this with sudo.'
    grep -qsx 'ID=debian' /etc/os-release || die 'no registry has these images for us, and a stand-in can only be built on Debian.'
    command -v mmdebstrap >/dev/null || install_mmdebstrap
    [ -n "$(mirror Debian)" ] || apt-get update -qq || true   # without lists apt does not tell its mirror
    [ -n "$(mirror Debian)" ] || die "this machine's apt knows no Debian mirror."
    write_excludes
}

# gpg lets mmdebstrap tell which of the machine's keys a suite is signed with.
install_mmdebstrap() {
    say 'installing mmdebstrap'
    {
        apt-get update -qq || true   # one unreachable third-party source makes it fail
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends mmdebstrap gpg mount
    } >"$tmp/apt.log" 2>&1 || {
        tail -n 20 "$tmp/apt.log" >&2
        die 'apt-get could not install mmdebstrap.'
    }
}

# Documentation, manuals and translations are a third of a small image. dpkg leaves them out from
# here on; what was unpacked before it could read this is removed at the end. (mmdebstrap's own
# --dpkgopt=path-exclude does the same and takes half as long again.)
write_excludes() {
    printf '%s\n' 'path-exclude=/usr/share/man/*' 'path-exclude=/usr/share/locale/*' \
        'path-exclude=/usr/share/doc/*' 'path-include=/usr/share/doc/*/copyright' >"$tmp/excludes"
}

# shellcheck disable=SC2016  # mmdebstrap's shell gets these with the new root as $1
DROP_DOCS='
    rm -rf "$1"/usr/share/man/* "$1"/usr/share/locale/*
    find "$1/usr/share/doc" ! -type d ! -name copyright -delete
    find "$1/usr/share/doc" -mindepth 1 -type d -empty -delete'

# Where the way out goes through a proxy with a certificate of its own, pip and curl in a container
# or a build fail unless they trust what this machine trusts. Its local certificates go in before
# the package ca-certificates, which then links them for OpenSSL and keeps them at an upgrade; the
# bundle as a whole goes over the one made there, since a machine's may have been added to by hand.
# shellcheck disable=SC2016
LOCAL_CERTIFICATES='
    mkdir -p "$1/usr/local/share/ca-certificates"
    find /usr/local/share/ca-certificates -name "*.crt" -exec cp -t "$1/usr/local/share/ca-certificates" {} + 2>/dev/null || true'
# shellcheck disable=SC2016
BUNDLE='
    if [ -s /etc/ssl/certs/ca-certificates.crt ]; then
        cp /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/ca-certificates.crt"
    fi'

# build IMAGE PACKAGE SOURCES PACKAGES HOOK CHANGE...
# Imports from a file, not a pipe: a build that breaks off half-way must not become an image.
# Check-Valid-Until is off because a mirror frozen in time serves lists that count as expired.
build() {
    local image=$1 package=$2 sources=$3 packages=$4 hook=$5 tar log suite change changes=()
    shift 5
    for change; do changes+=(--change "$change"); done
    suite=$(echo "$sources" | awk '{ print $3; exit }')
    tar=$tmp/${image%%:*}.tar
    log=$tmp/${image%%:*}.log
    begin mmdebstrap --quiet --variant=minbase --include="$packages" \
        --aptopt='Acquire::Check-Valid-Until "false"' \
        --essential-hook="upload $tmp/excludes /etc/dpkg/dpkg.cfg.d/excludes" \
        --essential-hook="$LOCAL_CERTIFICATES" --customize-hook="set -e; $hook" \
        --customize-hook="$BUNDLE" --customize-hook="$DROP_DOCS" \
        "$suite" "$tar" "$sources" >"$log" 2>&1
    wait "$child" || {
        tail -n 30 "$log" >&2
        return 1
    }
    replace "$image" "$tar" "${changes[@]}"
    built="$package $(package_version "$tar" "$package")"
    rm -f "$tar"
}

# A stand-in that loses its name to a newer one would stay behind as a nameless image for ever.
replace() {
    local image=$1 tar=$2 old=
    shift 2
    if is_stand_in "$image"; then
        old=$(docker image inspect --format '{{.Id}}' "$image")
    fi
    docker import "$@" "$tar" "$image" >/dev/null
    [ -z "$old" ] || docker image rm "$old" >/dev/null 2>&1 || true   # in use: it stays
}

package_version() {
    tar -xOf "$1" ./var/lib/dpkg/status |
        awk -v package="$2" '$1 == "Package:" { name = $2 } $1 == "Version:" && name == package { print $2 }'
}

# Debian testing moves on and the tag does not: better to say so than to let somebody wonder.
remark() {
    local tag=${1##*:} version=$2
    if [ "$1" = "$NGINX" ] && [ "${version#"$tag".}" = "$version" ]; then
        echo ' (NOT the version that the tag says)'
    fi
}

build_and_say() {
    local start=$SECONDS image
    image=$(image_of "$1")
    "build_$1"
    say "$image built from Debian packages, $(megabytes "$image"), $((SECONDS - start)) s, $built$(remark "$image" "${built#* }")"
}

# ---- the steps ----

# all COMMAND WHAT...: runs them side by side and puts into `failed` those that did not succeed (on
# two cores the two builds take 36 s like this and at best 50 s in turn).
all() {
    local command=$1 what
    local -A pids=()
    shift
    failed=()
    for what; do
        { trap stop_child TERM; "$command" "$what"; } &
        pids[$what]=$!
    done
    running=("${pids[@]}")
    for what; do
        wait "${pids[$what]}" || failed+=("$what")
    done
    running=()
}

# Background jobs of a script do not feel Ctrl-C: without this the builds would go on.
stop() {
    trap '' INT TERM
    [ ${#running[@]} -eq 0 ] || kill -TERM "${running[@]}" 2>/dev/null || true
    wait
    exit 130
}

[ $# -gt 0 ] || set -- python nginx
wanted=()
for what; do
    image=$(image_of "$what")
    if [ -z "$FORCE" ] && is_here "$image"; then
        say "$image is here already, $(megabytes "$image")$(! is_stand_in "$image" || echo ', a stand-in')"
    else
        wanted+=("$what")
    fi
done
[ ${#wanted[@]} -gt 0 ] || exit 0
timeout 10 docker info >/dev/null 2>&1 || die 'no Docker Engine answers: run docker/engine.sh first.'

running=()   # what `all` started
child=       # what `begin` started, in each of these
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap stop INT TERM

failed=("${wanted[@]}")
[ -n "$FORCE" ] || all pull "${wanted[@]}"
[ ${#failed[@]} -gt 0 ] || exit 0

prepare_machine
all build_and_say "${failed[@]}"
[ ${#failed[@]} -eq 0 ] || die "could not build: ${failed[*]}"
