# `make install` makes .venv; every other target begins with it, so each works on a fresh clone.
PYTHON ?= python3
# PyTorch's own index has a CPU build of a few hundred MB; where it cannot be reached, pip's usual sources serve.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
DATA ?= mnist
# Executions of the decoder, and of each reader of files.
FUZZ_RUNS ?= 1000000
FUZZ_FILE_RUNS ?= 50000
# Length of the soak among the faults, in seconds, and where the table of faults goes.
SOAK_S ?= 120
# Rows of faults at a time.
JOBS ?= 2
FAULTS ?= results/faults.json
STUDY ?= table1

.PHONY: install demo study table1 table1-check lint types unit system test coverage test-compose bench bench-equality bench-gpu bench-compose fuzz faults clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import urllib.request as u; u.urlopen('$(TORCH_INDEX)/torch/', timeout=5)" 2>/dev/null \
	  && $(BIN)/pip install --quiet --constraint constraints.txt --index-url $(TORCH_INDEX) --no-deps torch \
	  || $(BIN)/pip install --quiet --constraint constraints.txt --no-deps torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	rm -rf $(DEMO)
	$(BIN)/dgan-launch run examples/paper-ring.toml --data digits --preset quick --policy info-gain --run-dir $(DEMO)
	$(BIN)/dgan-eval judge $(DEMO)

# A study of examples/studies, its table and docs/results.md: hours; goes on where it was interrupted, on another machine too.
study: install
	$(BIN)/dgan-launch study examples/studies/$(STUDY).toml --data $(DATA) --study-dir results/$(STUDY)
	$(BIN)/dgan-eval table results/$(STUDY)
	$(BIN)/python benchmarks/tables.py

# Table 1 with its control, five seeds; what is stored of it is not made again.
table1:
	$(MAKE) study STUDY=table1

# Whether one small cell that is stored can be made again bit for bit.
table1-check: install
	rm -rf runs/table1-check
	$(BIN)/dgan-launch study examples/studies/check.toml --data $(DATA) --study-dir runs/table1-check
	$(BIN)/python -m benchmarks.recheck results/table1-check runs/table1-check
	@echo "all of Table 1 again, and whether the cells that were made are the same:"
	@echo "  dgan-launch study examples/studies/table1.toml --data $(DATA) --study-dir runs/again/table1"
	@echo "  python -m benchmarks.recheck results/table1 runs/again/table1"

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

# Branches that the tests take, in the processes that they start too.
coverage: install
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage json --quiet -o .coverage-report.json
	$(BIN)/python benchmarks/branches.py .coverage-report.json; enough=$$?; $(BIN)/python benchmarks/tables.py && exit $$enough

# Needs a Docker engine and `docker compose` or docker-compose; builds the image and runs the cluster.
test-compose: install
	$(BIN)/python -m pytest -q -m compose

# Speed, memory and traffic as ratios. ONLY=training,exchange,… for some of its sections, FULL=1 for longer runs.
bench: install
	$(BIN)/python -m benchmarks $(if $(FULL),--full) $(if $(ONLY),--only $(ONLY))
	$(BIN)/python benchmarks/tables.py

# Whether bfloat16 ends as well as float32, in training and on the wire: hours, and it goes on where it was interrupted.
bench-equality: install
	$(BIN)/python -m benchmarks.equality $(DATA)
	$(BIN)/python -m benchmarks.equality $(DATA) --subject payload --seeds 40 --probed 6
	$(BIN)/python benchmarks/tables.py

# Needs a GPU, and a PyTorch for it: TORCH_INDEX=https://download.pytorch.org/whl/cu130, say, in a fresh clone.
bench-gpu: install
	$(BIN)/python -m benchmarks.gpu
	$(BIN)/python benchmarks/tables.py

# Needs a Docker engine, as test-compose does.
bench-compose: install
	PYTHONPATH=tests $(BIN)/python -m benchmarks.containers
	$(BIN)/python benchmarks/tables.py

# Coverage-guided fuzzing of everything that reads bytes from outside; planted bugs must be found.
fuzz: install
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/python -m fuzz.campaign --runs $(FUZZ_RUNS) --file-runs $(FUZZ_FILE_RUNS)
	$(BIN)/python benchmarks/tables.py

# What docs/reliability.md promises, done to real nodes: about 40 minutes, and SOAK_S=7200 for the long soak.
faults: install
	PYTHONPATH=tests $(BIN)/python -m faults $(if $(ROWS),--rows $(ROWS)) $(if $(SEED),--seed $(SEED)) --soak-s $(SOAK_S) --jobs $(JOBS) --output $(FAULTS)
	$(BIN)/python benchmarks/tables.py

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
