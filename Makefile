# The two commands of a fresh machine are `make demo` and `make test`; both install what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
INSTALL := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet $(CONSTRAINTS:%=-c %)

.PHONY: help demo test test-all bench lint format docs docs-serve notebooks wheel wheel-check weights clean

help:
	@echo "make demo        install, then write clips, train, test, predict and report (a few minutes)"
	@echo "make test        install, then run the tests (a few minutes)"
	@echo "make test-all    with those that take long: killed runs, several processes, every recipe"
	@echo "make bench       the quick set of measurements, as tables and in build/bench/ (a few minutes)"
	@echo "make lint        ruff, mypy, and the structure of the package"
	@echo "make docs        build the documentation site into build/site; warnings and broken links are errors"
	@echo "make docs-serve  show it at http://127.0.0.1:8000 while it is written"
	@echo "make notebooks   run the notebooks of the documentation"
	@echo "make wheel-check build the wheel and try it in a clean environment"
	@echo "make weights     train the bundled model anew (about half an hour)"

# The stamps make an install happen once, and again when what it depends on changes.
$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(INSTALL) -e '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.base
	$(INSTALL) -e '.[docs]'
	@touch $@

demo: $(VENV)/.base
	$(BIN)/emim demo --output demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m 'not slow'

test-all: $(VENV)/.dev
	$(BIN)/python -m pytest

# The full sets, and their commands, are in benchmarks/RESULTS.md.
bench: $(VENV)/.base
	@mkdir -p build/bench
	$(BIN)/emim bench op --quick --output build/bench/op.json
	$(BIN)/python benchmarks/model.py --quick --output build/bench/model.json
	$(BIN)/python benchmarks/train.py --quick --output build/bench/train.json
	$(BIN)/python benchmarks/scaling.py --quick --output build/bench/scaling.json
	$(BIN)/emim generate build/bench/clips --clips-per-class train=10 --frame-size 96
	$(BIN)/emim bench loader --data build/bench/clips --measure-clips 16 --repeats 2 --output build/bench/loader.json

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/structure.py

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Links between pages, and to headings, are checked by mkdocs.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

docs-serve: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# With `make notebooks OVERWRITE=1` the outputs, which the site shows, are stored anew.
notebooks: $(VENV)/.docs
	$(BIN)/python -m pytest --nbmake $(OVERWRITE:%=--overwrite) docs/notebooks

wheel: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist .

# The wheel alone, in an environment of its own and away from the checkout.
wheel-check: wheel
	rm -rf build/clean && $(PYTHON) -m venv build/clean
	PIP_DISABLE_PIP_VERSION_CHECK=1 build/clean/bin/python -m pip install --quiet -c constraints.txt dist/*.whl
	build/clean/bin/emim --help
	$(BIN)/emim generate build/clips --clips-per-class check=1 --frame-size 96
	cd build && clean/bin/emim predict clips/check --topk 1
	cd build && clean/bin/emim predict clips/check/left --json

# Two stages: learn to see motion on clear clips, then the full range. Old runs of these names must be gone.
weights: $(VENV)/.base
	rm -rf runs/clear runs/motion
	$(BIN)/emim generate data/clear --clips-per-class train=80 --clips-per-class val=20 --frame-size 80 --frames 8 --solo 0.8 --clear 1
	$(BIN)/emim train clear
	$(BIN)/emim generate data/motion --clips-per-class train=500 --clips-per-class val=20 --clips-per-class test=40 \
		--frame-size 96 --solo 0.75 --upright 0.5 --clear 0.5 --vary --seed 1
	$(BIN)/emim train motion
	mkdir -p src/emim/weights
	cp runs/motion/model.safetensors src/emim/weights/motion_tiny.safetensors
	$(BIN)/emim test bundled --data data/motion/test.csv

clean:
	rm -rf build dist demo .mypy_cache .ruff_cache .pytest_cache
