# Everything runs in a private virtual environment; only Python >= 3.10, make and the package index are assumed.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
BENCH  := $(VENV)-bench
TIMM   := $(VENV)-timm
STAMP  := $(VENV)/.stamp

.DEFAULT_GOAL := help
.PHONY: help setup demo test check docs bench test-timm zoo papers clean

help:            ## Show this list
	@grep -E '^[a-z-]+: .*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## Create the virtual environment and install isometry in it

$(STAMP)-core: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "isometry needs Python >= 3.10; set PYTHON=/path/to/python3"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(STAMP): $(STAMP)-core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,check,docs]'
	@touch $@

demo: $(STAMP)-core  ## Diagnose, prescribe and prove on a 100-layer tanh perceptron that does not train
	$(BIN)/isometry diagnose mlp:depth=100,width=100,activation=tanh --data digits --out report --prove 300 || test $$? -eq 1

test: $(STAMP)   ## Run all tests
	$(BIN)/python -m pytest

check: $(STAMP)  ## Run ruff, the type checker and the import-floor check
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)   ## Build the documentation into site/, links checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

papers: $(STAMP) ## Re-run every paper's claims at smoke scale
	$(BIN)/isometry papers verify

bench: $(BENCH)/.stamp ## Measure speed against peers in the same run; writes benchmarks/results/
	for file in orthogonal manifolds optimizers jacobian fisher diagnose models probe; do $(BENCH)/bin/python benchmarks/$$file.py || exit 1; done
	$(BENCH)/bin/python benchmarks/page.py

# The peers ask for torchvision, which would bring another torch along; they do not need it for what is measured here.
$(BENCH)/.stamp: pyproject.toml constraints.txt
	test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[hf]'
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  einops einconv unfoldNd linear_operator opt-einsum tqdm jaxtyping
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  backpack-for-pytorch curvlinops-for-pytorch nngeometry pyhessian hessian-eigenthings geoopt geotorch pytorch-optimizer
	@touch $@

test-timm: $(TIMM)/.stamp ## Test models of timm, in an environment with torchvision and the torch that fits it (6 GB)
	$(TIMM)/bin/python -m pytest -m timm tests/nn/test_timm.py

$(TIMM)/.stamp: pyproject.toml
	test -x $(TIMM)/bin/python || $(PYTHON) -m venv $(TIMM)
	$(TIMM)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1
	$(TIMM)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[timm]' pytest hypothesis
	@touch $@

zoo: $(STAMP)    ## Diagnose, cure and train the zoo; writes zoo/results.json and docs/zoo.md
	$(BIN)/python -m zoo.run

clean:           ## Remove the virtual environment and everything that was made
	rm -rf $(VENV) $(BENCH) $(TIMM) report site .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
