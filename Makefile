# `make install` makes .venv; every other target begins with it, so each works on a fresh clone.
PYTHON ?= python3
# PyTorch's own index has a CPU build of a few hundred MB; where it cannot be reached, pip's usual sources serve.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

.PHONY: install demo lint types unit system test bench clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import urllib.request as u; u.urlopen('$(TORCH_INDEX)/torch/', timeout=5)" 2>/dev/null \
	  && $(BIN)/pip install --quiet --constraint constraints.txt --index-url $(TORCH_INDEX) torch \
	  || $(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	rm -rf $(DEMO)
	$(BIN)/dgan-launch run examples/paper-ring.toml --data digits --preset quick --policy info-gain --run-dir $(DEMO)
	$(BIN)/dgan-eval probe $(DEMO)
	$(BIN)/dgan-eval quality $(DEMO)
	$(BIN)/dgan-eval report $(DEMO)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

unit: install
	$(BIN)/python -m pytest -q -m "not system"

system: install
	$(BIN)/python -m pytest -q -m system

test: lint types unit system

bench: install
	$(BIN)/python benchmarks/node_costs.py

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
