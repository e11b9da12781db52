#!/usr/bin/env bash
# Ends with a sentence where servers of a stack of this name run from another folder: `make up` would take their place,
# and their jobs.
set -euo pipefail
cd "$(dirname "$0")/.."

project=${COMPOSE_PROJECT_NAME:-stormdrain}
label=com.docker.compose
docker ps --filter "label=$label.project=$project" --filter "label=$label.service=server" \
    --filter "label=$label.oneoff=False" --format "{{.Label \"$label.project.working_dir\"}}" | while read -r folder; do
    [ "$(readlink -f "$folder")" = "$(pwd -P)" ] || {
        echo "The servers of $project run from $folder: make down stops them, make deploy replaces them by this folder's" >&2
        echo "(nginx stays), and with COMPOSE_PROJECT_NAME=another and another PORT this stack runs beside them." >&2
        exit 1
    }
done
