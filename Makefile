# make demo   train and compare small models, write the report
# make test   lint, types, the documentation and the test suite, all but the sanitizers; layers once more with annotations executed
# make docs   the documentation as a site, in site/; warnings are errors
# make sanitize  the C++ under AddressSanitizer and UBSan; SANITIZE=long for every instruction set and a longer corpus
# make bench  accuracy, digits and run time of the projection, time and memory of a site; renews the figures and pictures in docs
# make gpu    on a machine with one: the kernels checked on the device, then timed; JSON in runs/gpu.json
# make test-torch VERSION=2.10.0  the suite on another torch
# make wheel  one wheel for all Pythons and torches, in dist/
# All create .venv first; a second run finds it ready.
PYTHON ?= python3
SANITIZE ?= short
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PACKAGES := $(VENV)/.packages
# Annotations of shapes and types are executed. Compilers cannot trace through that, and refusals come from it first.
TYPED = $(BIN)/python -m pytest --numprocesses auto --jaxtyping-packages=streammix,beartype.beartype \
	-m "not refusal and not slow" -k "not compile and not export" \
	tests/layers tests/manifolds tests/diagnostics tests/checkpoints tests/compat tests/test_functional.py tests/test_recipes.py
# Apart from the rest, and of that torch: tests/hf/test_timm.py says why.
TIMM := timm==1.0.31 torchvision==0.28.0
NATIVE := setup.py $(shell find src/streammix/csrc -name "*.h" -o -name "*.cpp")

.PHONY: demo test lint docs test-torch sanitize bench gpu wheel clean
.DEFAULT_GOAL := demo

$(PACKAGES): requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/timm $(TIMM)
	@touch $@

$(READY): $(PACKAGES) pyproject.toml $(NATIVE)
	@echo "building the C++ kernels and installing streammix into $(VENV)"
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

demo: $(READY)
	$(BIN)/streammix compare --preset demo --out runs/demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test: lint docs
	$(BIN)/python -m pytest --numprocesses auto --ignore tests/csrc
	$(TYPED)

# In an environment of its own, with the library that is built here: one binary serves every torch since 2.10.
test-torch: $(READY)
	$(PYTHON) -m venv .venv-torch-$(VERSION)
	grep -v "^torch==" requirements-dev.txt > .venv-torch-$(VERSION)/requirements.txt
	.venv-torch-$(VERSION)/bin/python -m pip install --quiet torch==$(VERSION) -r .venv-torch-$(VERSION)/requirements.txt
	.venv-torch-$(VERSION)/bin/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	.venv-torch-$(VERSION)/bin/python -m pytest --numprocesses auto --ignore tests/csrc

sanitize: $(READY)
	STREAMMIX_SANITIZE=$(SANITIZE) $(BIN)/python -m pytest tests/csrc

bench: $(READY)
	$(BIN)/streammix bench projection --json docs/bench.json --plot docs/images/projection.svg
	$(BIN)/streammix bench digits --json docs/bench-digits.json --plot docs/images/digits.svg
	$(BIN)/streammix bench site --json docs/bench-site.json --plot docs/images/site.svg

# Uses a torch that is there: PYTHON's, with its GPU build, pytest and this package's [lab].
gpu:
	PYTHONPATH=src $(PYTHON) -m pytest -m gpu tests/triton
	PYTHONPATH=src $(PYTHON) -m _streammix_command bench device --json runs/gpu.json

wheel: $(PACKAGES)
	$(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) .venv-torch-* build dist site src/*.egg-info src/streammix/_C*.so
