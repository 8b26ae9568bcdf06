# Everything runs in an environment that is made when it is missing or when pyproject.toml has changed.
#   make demo     prune the bundled samples, a pipeline twice and a scene once; ends with the pages to open
#   make test     the tests
#   make bench    the benchmark tables of the README, one command after the other; further scenes and the command of
#                 splat-transform: make bench SCENES="a.ply b.ply" PEER="splat-transform -g cpu"
#   make samples  train the bundled sample models again; takes the emoji set: make samples DATA=FOLDER
#   make lint     ruff and mypy
VENV ?= .venv
PYTHON ?= python3
RUN := $(VENV)/bin/python
SCENES ?= scenes/guitar.compressed.ply

.PHONY: demo test bench samples lint environment

demo: environment
	@$(RUN) -m gencompress demo

test: environment
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 tests

bench: environment
	@$(RUN) -m benchmarks.gradient
	@$(RUN) -m benchmarks.planning
	@$(RUN) -m benchmarks.sam_sizes
	@$(RUN) -m benchmarks.sam_speed
	@$(RUN) -m benchmarks.sam_quality
	@$(RUN) -m benchmarks.speed
	@for sample in emoji32_ddpm emoji64_sd; do for metric in params macs; do \
		$(RUN) -m benchmarks.quality --sample $$sample --metric $$metric || exit 1; done; done
	@$(RUN) -m benchmarks.rasterizer --scenes $(SCENES)
	@$(RUN) -m benchmarks.formats $(SCENES)
	@$(RUN) -m benchmarks.sog $(SCENES) $(if $(PEER),--peer "$(PEER)")
	@$(RUN) -m benchmarks.splats_quality $(SCENES) $(if $(PEER),--peer "$(PEER)")
	@$(RUN) -m benchmarks.splats_budgets $(SCENES)
	@$(RUN) -m benchmarks.splats_million
	@$(RUN) -m benchmarks.hashgrid
	@$(RUN) -m benchmarks.stylegan_speed
	@$(RUN) -m benchmarks.frechet
	@$(RUN) -m benchmarks.board

samples: environment
	@$(RUN) -m gencompress.scenes.train_ddpm $(if $(DATA),--data "$(DATA)")
	@$(RUN) -m gencompress.scenes.train_sd $(if $(DATA),--data "$(DATA)")
	@$(RUN) -m gencompress.scenes.train_sam
	@$(RUN) -m gencompress.scenes.reference $(if $(DATA),--data "$(DATA)")

lint: environment
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy

environment:
	@$(PYTHON) .ci/environment.py "$(VENV)"
