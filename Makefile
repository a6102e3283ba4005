# make demo [ARGS="..."]   the 90 s tour; needs Python >= 3.10 and its venv module, no root, no GPU, no broker, no torch
# make test                everything that must hold: format, lint, types, import rules, tests
# make soak                the long tests
# make lock                renew the pinned requirements (needs uv)

PYTHON ?= python3
ARGS ?=
DEMO := .venv/demo
FULL := .venv/full
PIP_FLAGS := --quiet --disable-pip-version-check

.PHONY: demo test check presets soak lock clean

demo: $(DEMO)/.ready
	@$(DEMO)/bin/bintally demo $(ARGS)

test: check
	$(FULL)/bin/python -m pytest -m "not soak" $(ARGS)

check: $(FULL)/.ready
	$(FULL)/bin/ruff format --check .
	$(FULL)/bin/ruff check .
	$(FULL)/bin/mypy .
	$(FULL)/bin/lint-imports

# Every preset end to end on DATA, one shortened epoch each: make presets DATA=data/bins [ARGS="--weights none"]
presets: $(FULL)/.ready
	$(FULL)/bin/python benchmarks/presets.py $(DATA) --out runs/presets --epochs 1 $(ARGS)

soak: $(FULL)/.ready
	$(FULL)/bin/python -m pytest -m soak $(ARGS)

# Hashes are checked for every package, and the project itself is linked, not copied.
.venv/%/.ready: requirements/%.txt pyproject.toml
	@echo "Creating the environment .venv/$* (once)"
	@$(PYTHON) -c 'import sys; sys.exit("bintally needs Python 3.10 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 10) else None'
	@$(PYTHON) -m venv --clear .venv/$* || { echo 'Python has no venv module here. On Debian or Ubuntu: apt install python3-venv'; exit 1; }
	@.venv/$*/bin/pip install $(PIP_FLAGS) --require-hashes -r requirements/$*.txt
	@.venv/$*/bin/pip install $(PIP_FLAGS) --no-deps --no-build-isolation --no-index --editable .
	@touch $@

lock:
	for name in edge:recalibrate demo:demo full:dev; do \
	  echo hatchling | uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header --no-annotate \
	    --extra $${name#*:} pyproject.toml - --output-file requirements/$${name%%:*}.txt; \
	done

clean:
	rm -rf .venv
