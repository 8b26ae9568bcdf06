# Everything runs in an environment that is made when it is missing or when pyproject.toml has changed.
#   make demo     prune the bundled sample pipeline twice; ends with the paths of the reports
#   make test     the tests
#   make bench    the benchmark tables of the README, one command after the other
#   make samples  train the bundled sample pipelines again; takes the emoji set: make samples DATA=FOLDER
#   make lint     ruff and mypy
VENV ?= .venv
PYTHON ?= python3
RUN := $(VENV)/bin/python

.PHONY: demo test bench samples lint environment

demo: environment
	@$(RUN) -m gencompress demo

test: environment
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 tests

bench: environment
	@$(RUN) -m benchmarks.gradient
	@$(RUN) -m benchmarks.planning
	@$(RUN) -m benchmarks.speed
	@for sample in emoji32_ddpm emoji64_sd; do for metric in params macs; do \
		$(RUN) -m benchmarks.quality --sample $$sample --metric $$metric || exit 1; done; done

samples: environment
	@$(RUN) -m gencompress.scenes.train_ddpm $(if $(DATA),--data "$(DATA)")
	@$(RUN) -m gencompress.scenes.train_sd $(if $(DATA),--data "$(DATA)")
	@$(RUN) -m gencompress.scenes.reference $(if $(DATA),--data "$(DATA)")

lint: environment
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy

environment:
	@$(PYTHON) .ci/environment.py "$(VENV)"
