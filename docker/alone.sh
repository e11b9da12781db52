#!/usr/bin/env bash
# Ends with a sentence where a stack of this name runs from another folder: `make up` would take its place, and its jobs.
set -euo pipefail
cd "$(dirname "$0")/.."

project=${COMPOSE_PROJECT_NAME:-stormdrain}
label=com.docker.compose.project
docker ps --filter "label=$label=$project" --format "{{.Label \"$label.working_dir\"}}" | while read -r folder; do
    [ "$(readlink -f "$folder")" = "$(pwd -P)" ] || {
        echo "A stack named $project runs from $folder: make down stops it, make deploy brings this folder's code to it," >&2
        echo "and with COMPOSE_PROJECT_NAME=another and another PORT this one runs beside it." >&2
        exit 1
    }
done
