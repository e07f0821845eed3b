# Every target is a thin call of `python -m tools`, which works without make as well.
# Variables on the command line reach it through make's own environment (--make), so no shell has to quote them;
# one that the command does not know is an error.

ifeq ($(OS),Windows_NT)
VENV_PYTHON := .venv/Scripts/python.exe
else
VENV_PYTHON := .venv/bin/python
endif

# A finished .venv keeps its own Python, even after an update of python3.
PYTHON ?= $(if $(wildcard .venv/crackutils-stamp),$(VENV_PYTHON),python3)
RUN := @$(VENV_PYTHON) -m tools --make

.DEFAULT_GOAL := help
.PHONY: help setup recipes lab app data verify reference spread tables docs pretrain train-detector bench tensorboard test test-all lint badges lock clean

help: ## show this list
	@sed -n 's/^\([a-z%-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-20s %s\n", $$1, $$2}'
	@echo; echo '  PROFILE=sample, metu-mini, metu-tenth, metu-half, metu, sdnet or own chooses the images (default: sample).'

setup: ## create .venv with the exact versions of requirements.lock
	@$(PYTHON) -m tools setup

recipes: setup ## list the recipes, ours and nine published ones, with our corrections
	$(RUN) recipes

run-%: setup ## run notebooks that are not up to date: run-all, run-03, run-recipes [PROFILE=...] [FORCE=1] [parameter=value]
	$(RUN) run $*

data: setup ## fetch the images, or read your copy: FROM=archive-or-folder [SOURCE=own] [CLASSES=uncracked:cracked]
	$(RUN) data

lab: setup ## open JupyterLab on the notebooks
	$(RUN) lab

app: setup ## open a page in the browser: load photos, review and correct cracks, write a report [PHOTOS=folder]
	$(RUN) app

docs: setup ## build the site: the executed notebooks of a profile, guides, API [PROFILE=...]
	$(RUN) docs

pretrain: setup ## train our own backbone again: half an hour on two cores, 2.5 GB of disk, continues after a kill
	$(RUN) pretrain

train-detector: setup ## train the detector of the package again: PROFILE=metu MASKS=folder; up to two hours, continues
	$(RUN) train-detector

tensorboard: setup ## open TensorBoard on the results of a profile
	$(RUN) tensorboard

bench: setup ## measure the speed of the series against a published recipe: half an hour
	$(RUN) bench

verify: setup ## compare the results of a profile with the reference
	$(RUN) verify

reference: setup ## make the results of a profile the reference
	$(RUN) reference

spread: setup ## measure how far the reference varies with the type of CPU and the seed: most of an hour
	$(RUN) spread

tables: setup ## write the tables of README.md and docs/benchmark.md
	$(RUN) tables

test: setup ## lint, then run all tests except the slow ones
	$(RUN) test

test-all: setup ## lint, then run all tests
	$(RUN) test-all

lint: setup ## check style, format, spelling and imports between modules
	$(RUN) lint

badges: setup ## write the repository's name into the Colab badges and set-up cells
	$(RUN) badges

lock: setup ## update requirements.lock
	$(RUN) lock

clean: ## remove results and caches; images and downloads stay
	@$(PYTHON) -m tools --make clean
