# Two commands show everything on a machine with Python 3.11, pip and make: `make demo` and `make serve`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
# One thread per torch process: two spinning OpenMP threads on a busy two-core machine are many times slower than one.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE ?= 1
export LANGSMITH_TRACING ?= false

.PHONY: demo serve test test-fast lint types check install clean

demo: $(VENV)/.demo  ## learn RPP on MovieLens-100K with the embedded model and report whether it paid
	$(BIN)/promptailor demo --out runs/demo

# Sentences are drawn and not only the most probable ones taken, so that a visitor sees the prompt evolve.
serve: $(VENV)/.serve  ## the chat recommender on a web page
	$(BIN)/promptailor data get ml-100k > /dev/null
	$(BIN)/promptailor serve --explore

install: $(VENV)/.all  ## everything, for development

# In the order of the folders, that is, the long files of tests/integration first: a long one last leaves a core idle.
test: $(VENV)/.all  ## every test that needs no key and no accelerator
	$(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 10

test-fast: $(VENV)/.all  ## the unit tests
	$(BIN)/python -m pytest -q tests/unit -m "not slow"

lint: $(VENV)/.all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.all
	$(BIN)/mypy

check: lint types test  ## what CI runs

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25"

# torch first and alone: asked for by another package, pip would take the newest build and gigabytes of CUDA with it.
$(VENV)/.torch: $(BIN)/pip constraints.txt
	$(PIP) torch
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(PIP) -e ".[local,baselines]"
	touch $@

$(VENV)/.serve: $(VENV)/.torch pyproject.toml
	$(PIP) -e ".[local,baselines,serve]"
	touch $@ $(VENV)/.demo

$(VENV)/.all: $(VENV)/.torch pyproject.toml
	$(PIP) -e ".[openai,local,baselines,studio,sqlite,serve,tracing,postgres,community,dev]"
	touch $@ $(VENV)/.demo $(VENV)/.serve

clean:
	rm -rf $(VENV) build dist *.egg-info
