# The verbs of this project. Each is a line or a few, so that it can be read here and typed by hand as well.
PYTHON ?= python
.DEFAULT_GOAL := help
.PHONY: help format lint typecheck test test-slow docs wheel

help:  ## list the verbs
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 12

format:  ## lay out the code and mend what ruff can mend
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

lint:  ## check layout and rules, changing nothing
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .

# On the installed package, from elsewhere: the checkout's cli/ and integrations/ are atom_plugin.cli and .integrations
# only once installed. build/ goes first, or the wheel would hold modules deleted since.
typecheck:  ## mypy --strict on the installed wheel
	@work=$$(mktemp -d) && trap 'rm -rf "$$work" "$(CURDIR)/build"' EXIT && rm -rf build \
	&& $(PYTHON) -m pip install --quiet --no-deps --target "$$work/site" . && cd "$$work" \
	&& MYPYPATH="$$work/site" MYPY_CACHE_DIR="$${MYPY_CACHE_DIR:-$(CURDIR)/.mypy_cache}" \
	   $(PYTHON) -m mypy --strict --config-file "$(CURDIR)/pyproject.toml" -p atom_plugin

test:  ## the tests that take seconds
	$(PYTHON) -m pytest

test-slow:  ## the tests that take minutes
	$(PYTHON) -m pytest -m slow

SITE ?= $(CURDIR)/site
docs:  ## build the documentation's site in site/, and fail on a broken link
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --site-dir "$(SITE)"

wheel:  ## build dist/*.whl
	rm -rf build
	$(PYTHON) -m build --wheel
