# The one door. `make` alone prints every target; settings go behind it or into .env: make up PORT=8090 SLOTS=4

-include .env
PYTHON ?= python3
# Without PYTHONPATH: a json.py there would be taken for the standard library's.
NATIVE = $(PYTHON) -E native/stack.py
PORT ?= 8080
# docker where an engine with Compose answers, else native.
STACK ?= $(shell docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1 && echo docker || echo native)
# Where this machine reaches nginx.
ADDRESS = $(patsubst [::],[::1],$(patsubst 0.0.0.0,127.0.0.1,$(or $(BIND),127.0.0.1)))
# Containers see the folder of API_KEYS_FILE: of a file alone they would see the old one for ever after a change.
ifneq ($(API_KEYS_FILE),)
API_KEYS_DIR := $(shell dirname "$(API_KEYS_FILE)")
API_KEYS_NAME := $(shell basename "$(API_KEYS_FILE)")
endif
export
ifeq ($(filter docker native,$(STACK)),)
$(error STACK is $(STACK): use docker or native)
endif

# No address of an index: whoever installs uses their own.
LOCK = --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links

.DEFAULT_GOAL := help
.PHONY: help up deploy down status logs backup restore key loadtest stage stages chaos bench settings test test-long check docs lock base-images clean

help:  ## Print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  here, STACK is $(STACK); PORT is $(PORT); make up STACK=native runs without Docker"

up:  ## Set up what is missing, start the stack, return when it is ready
	@$(MAKE) --no-print-directory up-$(STACK)

up-docker:
	@docker/alone.sh
	@docker compose build || { \
	  echo "Where no image registry can be reached: make base-images, or make up STACK=native" >&2; exit 1; }
	@docker compose run --rm --no-deps --no-TTY server python -m service check
	@running=$$(docker compose ps --quiet server); docker compose up --detach --wait || { \
	  docker compose logs --no-log-prefix --tail 20 server >&2; test -n "$$running" || docker compose down; \
	  echo "The stack did not get ready, see above." >&2; exit 1; }
	@echo "ready: http://$(ADDRESS):$(PORT)   try:"
	@if [ -n "$$JOBS" ]; then body='{"job": "NAME", "args": {}}'; else body='{"job": "primes", "args": {"limit": 100000}}'; fi; \
	  echo "  curl -i http://$(ADDRESS):$(PORT)/jobs$(if $(API_KEYS_FILE), -H 'Authorization: Bearer KEY') -d '$$body'"

up-native:
	@$(NATIVE) up

deploy:  ## Replace all servers one after the other, while the others serve; nginx reads its configuration anew
	@$(MAKE) --no-print-directory deploy-$(STACK)

deploy-docker:
	@docker/deploy.sh

deploy-native:
	@$(NATIVE) deploy

down:  ## Drain and stop the stack; queued jobs stay on disk
	@$(MAKE) --no-print-directory down-$(STACK)

down-docker:
	@docker compose down

down-native:
	@$(NATIVE) down

status:  ## Tell what runs
	@$(MAKE) --no-print-directory status-$(STACK)

status-docker:
	@docker compose ps
	@if [ -n "$$STORMDRAIN_KEY" ]; then printf 'Authorization: Bearer %s\n' "$$STORMDRAIN_KEY"; fi | \
	  curl -sS -H @- http://$(ADDRESS):$(PORT)/readyz http://$(ADDRESS):$(PORT)/stats

status-native:
	@$(NATIVE) status

logs:  ## Follow the logs
	@$(MAKE) --no-print-directory logs-$(STACK)

logs-docker:
	@docker compose logs --follow --tail 50

logs-native:
	@$(NATIVE) logs

backup:  ## Copy the backlog to FILE, also while it is used; the copy's integrity is checked
	@$(MAKE) --no-print-directory backup-$(STACK)

backup-docker:
	@test -n "$(FILE)" || { echo "which file? make backup FILE=…" >&2; exit 2; }
	@test ! -e "$(FILE)" || { echo "$(FILE) is there already: choose another name" >&2; exit 2; }
	@umask 077; docker compose run --rm --no-deps --no-TTY server sh -c 'copy=/data/copy.$$$$.db; \
	  trap "rm -f $$copy" EXIT; python -m service backup $$copy >&2 && cat $$copy' > "$(FILE)" || { rm -f "$(FILE)"; exit 1; }

backup-native:
	@$(NATIVE) backup "$(FILE)"

restore:  ## Put the copy in FILE in the backlog's place, after make down; what was there is kept beside it
	@$(MAKE) --no-print-directory restore-$(STACK)

restore-docker:
	@test -f "$(FILE)" || { echo "which file? make restore FILE=…" >&2; exit 2; }
	@docker compose run --rm --no-deps --no-TTY server sh -c 'copy=/data/copy.$$$$.db; \
	  trap "rm -f $$copy" EXIT; cat > $$copy && python -m service restore $$copy' < "$(FILE)"

restore-native:
	@$(NATIVE) restore "$(FILE)"

key:  ## Create an API key, told once: NAME=shop SCOPES=submit,read; REVOKE=shop-1 revokes it (API_KEYS_FILE=keys/api_keys)
	@$(MAKE) --no-print-directory key-$(STACK) API_KEYS_FILE="$(or $(API_KEYS_FILE),keys/api_keys)"
	@$(if $(API_KEYS_FILE),,echo "with API_KEYS_FILE=keys/api_keys, in .env for instance, the stack asks for keys" >&2)

WHICH_KEY = $(if $(REVOKE),--revoke "$(REVOKE)",$(if $(NAME),"$(NAME)") $(if $(SCOPES),--scopes "$(SCOPES)"))

key-docker:
	@mkdir -p -m 755 "$(API_KEYS_DIR)"  # servers run as another user
	@docker compose --profile key build --quiet key >&2
	@docker compose --profile key run --rm --no-deps --no-TTY key $(WHICH_KEY)

key-native:
	@$(NATIVE) key $(WHICH_KEY)

loadtest:  ## Send N=1000 jobs from CLIENTS=10 clients, follow each to its end (JOB=sleep ARGS='{}' FORM=jobs)
	@$(MAKE) --no-print-directory loadtest-$(STACK)

loadtest-docker:
	@docker compose --profile load build --quiet loadtest
	@docker compose --profile load run --rm --no-deps loadtest

loadtest-native:
	@$(NATIVE) setup
	@URL=http://$(ADDRESS):$(PORT) .venv/bin/python -m loadtest

stage:  ## Run one teaching server until Ctrl-C: NAME=blocking OPTIONS='--job primes --port 8002'
	@$(NATIVE) setup
	@.venv/bin/python -m service stage $(or $(NAME),blocking) $(OPTIONS)

stages:  ## Race the ladder's stages and the product (STAGES='blocking service' JOB=primes SECONDS=0.2 N=300 CLIENTS=50)
	@$(MAKE) --no-print-directory stages-$(STACK)

stages-docker:
	@docker compose --profile load build --quiet loadtest
	@docker compose --profile load run --rm --no-deps loadtest stages; code=$$?; mkdir -p var/stages; \
	  docker compose --profile load run --rm --no-deps --no-TTY --entrypoint tar loadtest \
	  -c -C /results stages.json stages.png stages.html | tar -x --no-same-owner -C var/stages && echo "copied to var/stages/"; exit $$code

stages-native:
	@$(NATIVE) setup pictures
	@.venv/bin/python -m loadtest stages

chaos:  ## Kill, stop, terminate everything at random under load, account for every job (MINUTES=2 SEED=7 JSON=file)
	@$(MAKE) --no-print-directory chaos-$(STACK)

chaos-docker:
	@docker compose build
	@$(NATIVE) setup
	@.venv/bin/python -m loadtest chaos

chaos-native:
	@$(NATIVE) setup
	@.venv/bin/python -m loadtest chaos

bench:  ## Measure accepts, drain and latency against the limits of the parts (QUICK=1 PEERS=1 CURVES=1 OUT=folder)
	@$(MAKE) --no-print-directory bench-$(STACK)

bench-native:
	@$(NATIVE) setup pictures $(if $(PEERS),peers)
	@.venv/bin/python -m loadtest bench

bench-docker:
	@if [ -n "$(PEERS)" ]; then echo "PEERS needs STACK=native: the image has no peer" >&2; exit 2; fi
	@docker compose --profile load build --quiet loadtest
	@docker compose --profile load run --rm --no-deps loadtest bench && mkdir -p var/bench && \
	  docker compose --profile load run --rm --no-deps --no-TTY --entrypoint sh loadtest \
	  -c 'cd /results && tar -c bench.* curves.* 2>/dev/null' | tar -x --no-same-owner -C var/bench && echo "copied to var/bench/"

settings:  ## Print every setting of the server: variable, default, unit, meaning
	@$(NATIVE) setup
	@.venv/bin/python -m service settings

test:  ## Set up what is missing, run every test that this machine can run
	@$(NATIVE) setup dev
	@.venv/bin/python -m pytest -n 2 --dist loadfile $(TESTS)

test-long:  ## The tests that take minutes
	@$(NATIVE) setup dev
	@.venv/bin/python -m pytest -m long -s $(TESTS)

check:  ## Types, style and format
	@$(NATIVE) setup dev
	@.venv/bin/ruff check && .venv/bin/ruff format --check && .venv/bin/mypy && .venv/bin/mypy native/*.py

docs:  ## Renew the tables, code and diffs in the README and the tour (docs/ladder-*.json are runs of make stages)
	@$(NATIVE) setup dev
	@.venv/bin/python -m docs.render

lock:  ## Renew the lock files in requirements/ from pyproject.toml
	@uv pip compile $(LOCK) --extra supervise pyproject.toml -o requirements/service.txt
	@uv pip compile $(LOCK) --group loadtest -o requirements/loadtest.txt
	@uv pip compile $(LOCK) --group pictures -o requirements/pictures.txt
	@uv pip compile $(LOCK) --group peers -o requirements/peers.txt
	@uv pip compile $(LOCK) --group dev -o requirements/dev.txt

base-images:  ## Build stand-ins for the base images from Debian packages (root, Debian)
	@docker/base-images.sh

clean: down-native  ## Remove the native stack's virtual environment, logs and DATA (queued jobs too)
	rm -rf .venv var
