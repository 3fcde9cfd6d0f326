# `make demo`, `make test` and `make docs` set up everything they need in .venv; nothing else is touched. Another Python,
# in an environment of its own:
#     make test PYTHON=python3.13 VENV=.venv-3.13
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The torch requirement. `auto`: without an NVIDIA GPU the CPU build is taken where the index offers it
# (hundreds of megabytes instead of gigabytes), otherwise plain torch. Anything pip accepts may be given instead:
#     make test TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= auto
TORCH_CPU ?= torch==2.13.0+cpu
# The lowest releases of all dependencies, in an environment of their own. test_processes is left out: with torch 2.4.0
# three or more processes sometimes hang when they end, after their work is done; with 2.13 they do not
LOWEST := .venv-lowest
LOWEST_PYTHON ?= python3.11
LOWEST_TESTS ?= $(addprefix tests/test_,$(addsuffix .py,agreement bad_input checkpoints cli columns datasets_download \
	datasets_images datasets_patches datasets_synthetic datasets_tables datasets_whitening docs faults image_commands image_files imaging \
	inputs inpainting large large_images launch metrics module out_of_core packaging plotting properties rendezvous \
	report rows storage untrusted))

.PHONY: demo test test-slow lowest lint format bench docs clean

demo: $(VENV)/.installed
	$(BIN)/sparsentropy demo --out demo-run

# One process a core, each with one thread; `pytest -k NAME` alone needs none of this.
test: lint
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m "not slow"

# What takes long: other posteriors, sizes and counts of processes of what `make test` has tried once.
test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m slow

# Whether the lower bounds in pyproject.toml are true: what uses other packages, with the lowest release of each.
lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(LOWEST_TESTS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed
	$(PIP) install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/run.py

# A warning ends the build: a page nobody can reach, a reference to nothing, an example that fails.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going --quiet -j auto docs docs/_build/html
	@echo docs/_build/html/index.html

clean:
	rm -rf $(VENV) $(LOWEST) demo-run docs/_build docs/_generated docs/gallery docs/api/generated

$(VENV)/.docs: pyproject.toml $(VENV)/.installed
	$(PIP) install --quiet --editable '.[docs]'
	@touch $@

$(VENV)/.torch: | $(VENV)/bin/python
ifeq ($(TORCH),auto)
	@if command -v nvidia-smi >/dev/null 2>&1; then \
		$(PIP) install --quiet torch; \
	else \
		$(PIP) install --quiet '$(TORCH_CPU)' 2>/dev/null \
			|| { echo 'no CPU build of torch on this index; installing the default one (several GB)'; $(PIP) install --quiet torch; }; \
	fi
else
	$(PIP) install --quiet $(TORCH)
endif
	@touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml $(VENV)/.torch
	$(PIP) install --quiet --editable '.[dev]'
	@touch $@

# The CPU build of the lowest torch, where the index offers it; what pip downloads otherwise is several gigabytes
$(LOWEST)/.installed: pyproject.toml .ci/lowest.py
	rm -rf $(LOWEST)
	$(LOWEST_PYTHON) -m venv $(LOWEST)
	$(LOWEST_PYTHON) .ci/lowest.py > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip --disable-pip-version-check install --quiet \
			"$$(grep '^torch==' $(LOWEST)/lowest.txt)+cpu" 2>/dev/null \
		|| echo 'no CPU build of the lowest torch on this index; installing the default one (several GB)'
	$(LOWEST)/bin/python -m pip --disable-pip-version-check install --quiet --requirement $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --editable .
	$(LOWEST)/bin/python -m pip --disable-pip-version-check check
	@touch $@
