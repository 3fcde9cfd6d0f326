# `make demo`, `make test` and `make docs` set up everything they need in .venv; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The torch requirement. `auto`: without an NVIDIA GPU the CPU build is taken where the index offers it
# (hundreds of megabytes instead of gigabytes), otherwise plain torch. Anything pip accepts may be given instead:
#     make test TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= auto
TORCH_CPU ?= torch==2.13.0+cpu

.PHONY: demo test lint format bench docs clean

demo: $(VENV)/.installed
	$(BIN)/sparsentropy demo --out demo-run

# One process a core, each with one thread; `pytest -k NAME` alone needs none of this.
test: lint
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

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
	rm -rf $(VENV) demo-run docs/_build docs/_generated docs/gallery docs/api/generated

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
