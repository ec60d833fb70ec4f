# The project's commands. Every target builds what it needs; stamps in .venv make repeated calls fast.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# Tests and short runs are many small tensors: a second thread only costs.
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: demo test lint test-fast test-heavy vllm-env vllm-python judge effects bench scaling studies results faults docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.base
	rm -rf runs/demo
	$(ONE_THREAD) $(BIN)/rekindle compare ttrl evol_rl --seeds 1 --steps 50 --prompts 100 --out runs/demo

test: lint test-fast

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test-fast: $(VENV)/.dev
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n 2

# What takes long here (Ray, processes that are killed, hundreds of hostile answers), then the page in real Chromium, and real
# TRL, verl, verifiers and vLLM in environments outside the clone; those are skipped, loudly, where they cannot be built.
HEAVY := tests/ray tests/ranks tests/tokens tests/train tests/cli tests/faults tests/report tests/interop

test-heavy: $(VENV)/.dev
	$(ONE_THREAD) $(BIN)/python -m pytest -q -m heavy $(HEAVY)
	$(ONE_THREAD) scripts/browser.sh "$(abspath $(BIN))/python"
	$(ONE_THREAD) scripts/heavy.sh "$(abspath $(BIN))/python"
	$(ONE_THREAD) scripts/judge.sh "$(abspath $(BIN))/python" test
	$(ONE_THREAD) scripts/verifiers.sh "$(abspath $(BIN))/python"
	$(ONE_THREAD) scripts/vllm.sh "$(abspath $(BIN))/python" test
	$(ONE_THREAD) scripts/docs.sh "$(abspath $(BIN))/python" test

# The documentation site, into site/: a page a method, the reference, the notebooks as they were last run.
docs: $(BIN)/python
	@scripts/docs.sh "$(abspath $(BIN))/python"

# vLLM and the whole of Rekindle in an environment outside the clone; it says where, and how it is used.
vllm-env: $(BIN)/python
	@scripts/vllm.sh "$(abspath $(BIN))/python" env

vllm-python: $(BIN)/python
	@scripts/vllm.sh "$(abspath $(BIN))/python" python

# Real TRL and real verl beside ours on identical tensors: writes docs/conformance.md. `make judge WHAT=test` reruns it only.
judge: WHAT ?= write
judge: $(VENV)/.dev
	$(ONE_THREAD) scripts/judge.sh "$(abspath $(BIN))/python" $(WHAT)

# A minute or so a method: whether it does what its paper claims. Writes the results and docs/effects.md.
effects: $(VENV)/.dev
	$(BIN)/rekindle prove all --store
	$(BIN)/python scripts/effects.py
	$(ONE_THREAD) $(BIN)/python -m pytest -q -m effect

# Rekindle and its rivals in turn, on all cores: writes benchmarks/speed.json and docs/performance.md. About half an hour
# on two cores. `make bench WHAT=step` measures one item only, `make bench WHAT="step --sizes 1M"` one row of it.
bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.speed $(WHAT)

# Steps of real runs against prompts, group, length, parameters and ranks: docs/scaling.md. Ten minutes on a quiet machine.
scaling: $(VENV)/.dev
	$(BIN)/python -m benchmarks.scaling

# The studies in docs: an echo on saturated prompts, EVOL-RL's ablation, real vLLM as the sampler. An hour or more.
ABLATION := evol_rl ttrl_entropy $(addprefix examples/03_evol_rl_ablation.py:,no_entropy no_clip_higher local_only global_only)

studies: $(VENV)/.dev
	$(ONE_THREAD) $(BIN)/python scripts/echo_study.py runs/echo
	$(ONE_THREAD) $(BIN)/rekindle compare $(ABLATION) --seeds 3 --task reduce --out runs/ablation
	$(ONE_THREAD) $(BIN)/python scripts/ablation_study.py runs/ablation
	$(ONE_THREAD) "$$(scripts/vllm.sh "$(abspath $(BIN))/python" python)" scripts/vllm_study.py runs/vllm

# The comparison behind docs/results/reduce.md; resumes where it was interrupted.
results: $(VENV)/.dev
	$(ONE_THREAD) $(BIN)/rekindle compare ttrl evol_rl ttrl_entropy grpo --seeds 3 --task reduce --out runs/compare-reduce
	$(BIN)/python scripts/results.py runs/compare-reduce
	$(BIN)/python scripts/pages.py

# Every fault made to happen, 120 kills, 1,000 malformed inputs, ten minutes of fuzzing: docs/reliability.md. Half an hour.
faults: $(VENV)/.dev
	rm -f docs/reliability.json
	$(ONE_THREAD) $(BIN)/python -m tests.faults.kill --kills 120 --store
	$(ONE_THREAD) $(BIN)/python -m tests.faults.kill_ranks --kills 12 --store
	$(ONE_THREAD) $(BIN)/python -m tests.faults.fuzz --seconds 600 --store
	REKINDLE_FAULTS=write $(ONE_THREAD) $(BIN)/python -m pytest -q -m "heavy or not heavy" tests/faults
	$(BIN)/python scripts/reliability.py

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis dist
	find rekindle tests examples scripts -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Rekindle needs Python 3.11 or later; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# torch comes first and alone: its version is exact, so that nothing later replaces a CPU build by a CUDA one.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(VENV)/.base: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) --editable '.[report]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.base
