.DEFAULT_GOAL := help
.PHONY: help setup demo test test-servers check format bench claims peers train wheel test-wheel clean

RUN := .venv/bin/python
OUT ?= runs/train

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## create .venv and install everything into it (instant when nothing changed)
	@scripts/setup

demo: setup  ## the main job: compare six methods on the embedded models, with a table and a plot
	@scripts/demo

test: setup  ## every check: lint, format, types, tests
	@scripts/test

test-servers: setup  ## the laws against real vLLM, llama.cpp and transformers servers (installs them once: 4 GB)
	@scripts/test-servers

check: setup  ## lint, format and types only
	@scripts/check

format: setup  ## format and apply the safe fixes, then check
	@scripts/check --fix

bench: setup  ## run every script in benchmarks/: the published figures
	@for script in benchmarks/*.py; do echo "== $$script"; $(RUN) -m benchmarks.$$(basename "$$script" .py) || exit 1; done

claims: setup  ## measure what papers claim, on the embedded tasks; rewrites that part of docs/evidence.md
	$(RUN) -m benchmarks.claims

peers: setup  ## its_hub and OptiLLM beside ours on a vLLM server (needs test-servers once); rewrites their tables
	$(RUN) -m benchmarks.peers

train: setup  ## retrain both embedded models from nothing into OUT (default runs/train); about two hours
	$(RUN) -m recipes.train_reasoner --out $(OUT)/reasoner
	OMP_NUM_THREADS=1 $(RUN) -m recipes.rollouts --model $(OUT)/reasoner --out $(OUT)/rollouts-1.jsonl --seed 1 --problems 13150 & \
	OMP_NUM_THREADS=1 $(RUN) -m recipes.rollouts --model $(OUT)/reasoner --out $(OUT)/rollouts-2.jsonl --seed 2 --only countdown; wait
	$(RUN) -m recipes.recall --init $(OUT)/reasoner --out $(OUT)/recall
	$(RUN) -m recipes.train_process_scorer --trunk $(OUT)/recall --rollouts $(OUT)/rollouts-1.jsonl --out $(OUT)/first_leg
	$(RUN) -m recipes.train_process_scorer --trunk $(OUT)/first_leg --rollouts $(OUT)/rollouts-2.jsonl $(OUT)/rollouts-1.jsonl \
		--take 1 0.38 --steps 600 --muon-lr 0.003 --out $(OUT)/process_scorer

wheel: setup  ## build the wheel into dist/
	$(RUN) -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

test-wheel: setup  ## build the wheel and use it in a venv that cannot see the source tree
	$(RUN) -m pytest tests/test_wheel.py

clean:  ## remove the venv, builds and caches; results in runs/ stay
	rm -rf .venv dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
