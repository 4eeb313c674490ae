# The commands of this repository. Each does its own set-up (scripts/setup.sh): a virtual environment in .venv, every
# dependency pinned, CPU torch where there is no GPU. A second run starts at once.
#
#   make demo              answer the bundled spoken question; AUDIO=my.wav answers that file, MODEL=nano by that model,
#                          DEVICE=cpu on that device
#   make serve             the server and its page at http://127.0.0.1:8000; ARGS="--port 8001" is handed to echox serve
#   make test              the tests that need no GPU, network or browser; ARGS="-k audio" is handed to pytest
#   make test-slow         the tests that take over some seconds each: whole trainings, loads, stock clients
#   make lint              ruff and mypy
#   make docs              the documentation site, into out/site; a link that leads nowhere is an error
#   make wheel             the wheel, built, installed into an empty environment and asked (a minute or two)
#   make latex             the technical report as out/report.tex, by pandoc (apt install pandoc)
#   make nano              train the embedded model from nothing (hours on two cores)
#   make smoke             every training stage on a handful of items (minutes)
#   make setup             only the environment, with everything for development
#   make clean             remove .venv and tool caches; out/ stays

AUDIO ?=
MODEL ?=
DEVICE ?=
ARGS ?=
# Each process has a part of the tests, in their order, so that what a file's tests share is mostly made once; one that
# has finished takes tests from another. JOBS=0: all in this process.
JOBS ?= auto
# Programs beside the package are checked for calls that do not fit, not for every type.
PROGRAMS = benchmarks/*.py scripts/*.py examples/*.py demo.py app.py
LOOSE = arg-type assignment call-overload import-not-found import-untyped index list-item misc no-untyped-def operator \
  typeddict-item union-attr var-annotated

PYTEST = .venv/bin/python -m pytest -q -n $(JOBS) --maxprocesses 8 --dist worksteal --durations 10
export PYTHON
# Containers often set it: every process would then compile each of the 3,000 modules of torch and transformers again,
# 15 s of the 20 s that it takes to load a model.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-slow lint docs latex wheel nano smoke setup clean

help:
	@sed -n 's/^#   //p' Makefile

demo:
	@scripts/setup.sh core
	@.venv/bin/python demo.py $(if $(AUDIO),"$(AUDIO)") $(if $(MODEL),--model "$(MODEL)") $(if $(DEVICE),--device "$(DEVICE)")

serve:
	@scripts/setup.sh serve
	.venv/bin/echox serve $(ARGS)

test:
	@scripts/setup.sh dev
	$(PYTEST) -m "not slow and not gpu and not hub and not browser" $(ARGS)

test-slow:
	@scripts/setup.sh dev
	$(PYTEST) -m "slow and not gpu and not hub and not browser" $(ARGS)

lint:
	@scripts/setup.sh dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	MYPYPATH=src:benchmarks:scripts .venv/bin/mypy $(addprefix --disable-error-code=,$(LOOSE)) $(PROGRAMS)

docs:
	@scripts/setup.sh dev
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

latex:
	@command -v pandoc >/dev/null || { echo "make latex: expected pandoc, found none; apt install pandoc" >&2; exit 1; }
	@mkdir -p out
	pandoc docs/report.md --from gfm --to latex --standalone --resource-path docs --output out/report.tex

wheel:
	@scripts/setup.sh dev
	.venv/bin/python scripts/smoke_wheel.py

nano:
	@scripts/setup.sh dev
	runs/nano.sh

smoke:
	@scripts/setup.sh dev
	runs/nano.sh --smoke
	runs/mini.sh --smoke

setup:
	@scripts/setup.sh dev

clean:
	rm -rf .venv .venv-pipecat .pytest_cache .mypy_cache .ruff_cache .hypothesis build src/*.egg-info
