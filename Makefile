# `make study`: a real sweep on real text. `make test`: lint, types, tests.
PYTHON ?= python3
RUN ?= runs/quickstart
BIN = .venv/bin

# A read-only or missing home must not stop anything: caches that cannot live there live beside the checkout.
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: study test lint types tests clean
.DEFAULT_GOAL = study

study: .venv/quickstart
	@$(BIN)/study run study/configs/quickstart.yaml --out "$(RUN)"

test: .venv/dev lint types tests

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/mypy

tests: .venv/dev
	$(BIN)/python -m pytest

# A stamp per extra: installed again only when the requirements change.
# torch goes first and alone: with it in place nothing else pulls another build of it.
.venv/quickstart .venv/dev: .venv/%: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[quickstart$(if $(filter dev,$*),$(comma)dev)]"
	@touch "$@"

comma = ,

clean:
	rm -rf .venv runs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
