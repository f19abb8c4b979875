# Short names for tox environments, nothing more: what runs is written in tox.ini.
.PHONY: help all lint type unit docs test pkg coverage format clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z]+:  ##' $(MAKEFILE_LIST) | sed -E 's/: *## */\t/' | expand -t 12

all:  ## everything, as CI does
	bash .ci/run

lint:  ## ruff and import-linter
	tox run -e lint

type:  ## mypy, strict
	tox run -e type

unit:  ## the pure tests, seconds
	tox run -e unit

docs:  ## the site, in build/docs/html
	tox run -e docs

test:  ## all tests on each Python found
	tox run -m test

pkg:  ## build, install and try wheel and sdist
	tox run -e pkg

coverage:  ## all tests with coverage
	tox run -e coverage

format:  ## mend what ruff can mend
	tox run -e format

clean:  ## remove what was built
	rm -rf build dist .tox *.egg-info .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
