# Set-up, demo, tests, checks and benchmarks. Everything is installed into .venv and the cache.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SECONDS ?= 60
RATE ?= 1500
PORT ?= 8080
DEMO ?= payments
BENCH ?=
ELEC ?=
HANDBOOK ?=
WHICH = $(if $(filter story,$(DEMO)),--story,$(if $(filter scaled,$(DEMO)),--scaled {},--kind $(DEMO)))
export PYTHONHASHSEED := 0

.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[torch,confluent,formats,ray,dev]'
	touch $(BIN)/.demo $@

# What the demo needs: no torch (5 GB) and no tools. Kernels are compiled when they are imported, half
# a minute of one core: here two processes do it while the packages that they do not need are fetched.
WINDOWS := models.kernels.windows.updates, models.kernels.stack, models.features.columns, \
	monitoring.quality.sums, monitoring.drift.betting, monitoring.drift.shift, stream.step.pending.id_index, \
	stream.step.roles.packing
MEMBERS := models.members.forest, models.members.crossed, models.members.logistic

$(BIN)/.demo: pyproject.toml constraints.txt
	@echo '[1/3] Making $(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@echo '[2/3] Installing the compiler'
	@$(PIP) --no-compile numba pydantic xxhash
	@echo '[3/3] Installing the other packages, compiling kernels meanwhile'
	@$(BIN)/python -c 'import $(WINDOWS)' & $(BIN)/python -c 'import $(MEMBERS)' & \
	$(PIP) --no-compile -e . && wait
	@touch $@

setup: $(BIN)/.installed ## Make .venv with Millrace, torch and the development tools

demo: $(BIN)/.demo ## Run everything on the embedded log for SECONDS; the live page is on PORT; DEMO=story, triage, arrival, shop or, on a broker, scaled
	@$(if $(filter scaled,$(DEMO)),$(BIN)/python -m tests.support.broker -- )$(BIN)/millrace demo $(WHICH) \
		--seconds $(SECONDS) --rate $(RATE) --port $(PORT)

test: setup ## Run the tests, on the embedded log and on a real Kafka broker
	$(BIN)/pytest $(TESTS)

lint: setup ## Format, lint and type checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup ## Write docs/configuration.md and docs/commands.md from the settings and commands
	$(BIN)/python -m stream.settings.reference > configuration.new
	mv configuration.new docs/configuration.md
	$(BIN)/python -m stream.cli.reference > commands.new
	mv commands.new docs/commands.md

kafka: setup ## Run a local Kafka broker on port 9092 until Ctrl-C
	$(BIN)/python -m tests.support.broker --port 9092

bench: setup ## Compare speed and accuracy with others; ELEC= and HANDBOOK= add data sets
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@$(BIN)/python -m benchmarks $(BENCH) $(if $(ELEC),--elec $(ELEC)) $(if $(HANDBOOK),--handbook $(HANDBOOK))

bench-recovery: setup ## Measure restarts, replay, kill -9 and what checkpoints cost
	@$(BIN)/python -m benchmarks.service.recovery $(BENCH)

bench-latency: setup ## Measure from event to committed score, on Kafka and over HTTP
	@$(BIN)/python -m benchmarks.service.latency $(BENCH)

bench-drift: setup ## Measure delay, false alarms and misses of the drift alarms
	@$(BIN)/python -m benchmarks.drift $(BENCH)

bench-lifecycle: setup ## Measure what challengers and the guard decide, and what changes while it runs cost (3 hours)
	@$(BIN)/python -m benchmarks lifecycle $(BENCH)

bench-scale: setup ## Measure scorers, learner, versions and 100 million waiting events; HANDBOOK=path adds 4 scorers
	@$(BIN)/python -m benchmarks scale $(BENCH) $(if $(HANDBOOK),--handbook $(HANDBOOK))

bench-soak: setup ## Run 5 million events and watch the memory (20 minutes at most)
	@$(BIN)/python -m benchmarks.service.soak $(BENCH)

constraints: setup ## Write constraints.txt from what is installed
	(sed -n 1p constraints.txt; $(BIN)/pip freeze --exclude-editable | grep -vE '@|^(nvidia|cuda|triton)' | sort -f) > constraints.new
	mv constraints.new constraints.txt

clean: ## Remove .venv and caches
	rm -rf $(VENV) build .mypy_cache .ruff_cache .hypothesis

.PHONY: help setup demo test lint format docs kafka bench bench-recovery bench-latency bench-drift bench-lifecycle \
	bench-scale bench-soak constraints clean
