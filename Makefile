# `make study`: a real sweep on real text. `make test`: lint, types, tests.
#   make gpu                                                              tests and measurements on this machine's GPU, in nine minutes
#   make gpu PYTHON=python3                                               the same with a Python that has PyTorch; installs nothing
#   make docs                                                             the documents in docs/ that are made from code
#   make test-lowest                                                      tests with the lowest versions that pyproject.toml promises
#   make study RUN=elsewhere                                              another run folder
#   make study PYTHON=/opt/python3.12/bin/python3                         another Python
#   make study PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu   a small torch for machines without a GPU
RUN ?= runs/quickstart
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14; do \
	"$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)
BIN = .venv/bin

.PHONY: study docs test lint types tests test-lowest gpu tools clean
.DEFAULT_GOAL = study
.NOTPARALLEL:

# A home that is missing or cannot be written must not stop anything: every cache then lives beside the checkout.
ifneq ($(shell test -d "$$HOME" -a -w "$$HOME" && echo writable),writable)
export XDG_CACHE_HOME := $(CURDIR)/.cache
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib
export HF_HOME := $(CURDIR)/.cache/huggingface
endif
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PYTHONUTF8 = 1

study: .venv/quickstart
	@$(BIN)/study run study/configs/quickstart.yaml --out "$(RUN)"

docs: .venv/dev
	@$(BIN)/python -m study.survey.documents docs

test: lint types tests

lint: .venv/dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: .venv/dev
	@$(BIN)/mypy

tests: .venv/dev tools
	@$(BIN)/python -m pytest -n 2 --dist loadfile

test-lowest: tools
	@"$(PYTHON)" -m venv .venv-lowest
	@.venv-lowest/bin/python .ci/lowest.py > .venv-lowest/constraints.txt
	@.venv-lowest/bin/python -m pip install -q -c .venv-lowest/constraints.txt torch
	@.venv-lowest/bin/python -m pip install -q -c .venv-lowest/constraints.txt -e ".[quickstart,dev]"
	@.venv-lowest/bin/python -m pytest -n 2 --dist loadfile

# With a Python of the user's nothing is installed: a machine with a GPU may have no package index.
OWN = $(filter file,$(origin PYTHON))
gpu: $(if $(filter file,$(origin PYTHON)),.venv/dev)
	@PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" "$(if $(OWN),$(BIN)/python,$(PYTHON))" -m benchmarks.gpu

# A checkout that was moved or copied needs a new environment: its scripts name their interpreter by its full path.
ifneq ($(shell cat .venv/place 2>/dev/null),$(CURDIR))
.PHONY: .venv/place
endif
.venv/place:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer with its venv module was found. Debian and Ubuntu: sudo apt-get install" \
		"python3-venv. Elsewhere install one from python.org, then: make PYTHON=/path/to/python3" >&2; exit 2; }
	@"$(PYTHON)" -m venv --clear .venv
	@printf '%s\n' "$(CURDIR)" > "$@"

# The stamp comes last, so that an interrupted install is done again; it is repeated only when the requirements change.
# torch goes first and alone: with it in place nothing else pulls another build of it.
.venv/quickstart .venv/dev: .venv/%: .venv/place pyproject.toml constraints.txt
	@echo "Installing into .venv; this takes some minutes the first time"
	@$(BIN)/python -m pip install -q -c constraints.txt torch
	@$(BIN)/python -m pip install -q -c constraints.txt -e ".[quickstart$(if $(filter dev,$*),$(comma)dev)]"
	@touch .venv/quickstart "$@"

comma = ,

# What tests need beside Python: Chromium, which opens reports, and LaTeX, which sets their tables.
tools:
	@$(call install,Chromium,chromium chromium-browser google-chrome,chromium,tests in a browser)
	@$(call install,LaTeX,pdflatex,texlive-latex-base texlive-latex-recommended,tests that compile tables)

# $(call install,what,commands one of which is enough,packages of Debian,what is skipped without them)
define install
for name in $(2); do command -v $$name >/dev/null && exit; done; \
if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	echo "No $(1) here, and only root with apt-get installs it: $(4) will be skipped"; exit; fi; \
echo "Installing $(1) for $(4)"; \
{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(3); } >/dev/null 2>&1 \
	|| echo "$(1) could not be installed: $(4) will be skipped"
endef

clean:
	rm -rf .venv .venv-lowest .cache runs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
