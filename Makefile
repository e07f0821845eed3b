# Every target is a thin call of `python -m crackutils`, which works without make as well.
# Variables on the command line reach it through make's own environment (--make), so no shell has to quote them;
# one that the command does not know is an error.

ifeq ($(OS),Windows_NT)
VENV_PYTHON := .venv/Scripts/python.exe
else
VENV_PYTHON := .venv/bin/python
endif

# A finished .venv looks after itself, whatever version python3 has become since.
PYTHON ?= $(if $(wildcard .venv/crackutils-stamp),$(VENV_PYTHON),python3)
RUN := @$(VENV_PYTHON) -m crackutils

.DEFAULT_GOAL := help
.PHONY: help setup recipes lab data verify reference readme report pretrain bench tensorboard test lint badges lock clean

help: ## show this list
	@sed -n 's/^\([a-z%-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-20s %s\n", $$1, $$2}'
	@echo; echo '  PROFILE=sample, metu-mini, metu-tenth, metu-half, metu, sdnet or own chooses the images (default: sample).'

setup: ## make .venv with the exact versions of requirements.lock
	@$(PYTHON) -m crackutils setup

recipes: setup ## list the recipes, ours and nine published ones, with what is corrected in them
	$(RUN) recipes --make

run-%: setup ## run what is not up to date: run-all, run-03, run-recipes [PROFILE=...] [FORCE=1] [parameter=value]
	$(RUN) run --make $*

data: setup ## fetch the images, or take your copy: FROM=archive-or-folder [SOURCE=own]
	$(RUN) data --make

lab: setup ## open JupyterLab on the notebooks
	$(RUN) lab --make

report: setup ## make the browsable report of a profile again
	$(RUN) report --make

pretrain: setup ## make our own backbone again: half an hour on two cores, 2.5 GB of disk, goes on after a kill
	$(RUN) pretrain --make

tensorboard: setup ## open TensorBoard on the results of a profile
	$(RUN) tensorboard --make

bench: setup ## measure how fast the series is, against a published recipe: three quarters of an hour
	$(RUN) bench --make

verify: setup ## compare the results of a profile with the reference results
	$(RUN) verify --make

reference: setup ## make the results of a profile the reference
	$(RUN) reference --make

readme: setup ## write the result tables of README.md
	$(RUN) readme --make

test: setup ## lint, then run the tests
	$(RUN) test --make

lint: setup ## check style and format
	$(RUN) lint --make

badges: setup ## write the repository's name into the Colab badges and set-up cells
	$(RUN) badges --make

lock: setup ## make requirements.lock again
	$(RUN) lock --make

clean: ## remove results and caches; images and downloads stay
	@$(PYTHON) -m crackutils clean --make
