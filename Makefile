# make study            from a fresh clone to the report (about 12 minutes on two cores)
# make test             the same environment, then all checks and the fast tests, and the smoke study
# Variables:
#   STUDY=configs/studies/smoke.yaml   another study: smoke (about 90 s), small (about 5 min), quickstart, full
#   TASKS=A,C REPEATS=1                what `make bench-similarity` measures, and how often
#   TORCH=cpu                          take torch from PyTorch's CPU-only index: 200 MB instead of 3 GB on Linux
#   PYTHON=python3.12                  the interpreter to build the environment from (3.10 to 3.13)

PYTHON ?= python3
VENV ?= .venv
STUDY ?= configs/studies/quickstart.yaml
TORCH ?= default
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := .venv-peers
PEERS_READY := $(PEERS)/.ready
TASKS ?= A,B,C,D,E,F,G
REPEATS ?= 3
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
TORCH_INDEX := $(if $(filter cpu,$(TORCH)),--index-url https://download.pytorch.org/whl/cpu,)

.PHONY: env study test check test-fast test-reference test-slow test-study test-cluster check-kernels ci docs agreement bench-similarity clean

study: $(READY)
	@$(BIN)/xbridge study run $(STUDY)

env: $(READY)

# torch comes first: whatever depends on it must find it there, or pip brings in another build of it; and the native
# operators are compiled against it, which is why the build is not isolated.
$(READY): pyproject.toml setup.py constraints.txt $(shell find csrc -type f)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else \
	  f"xbridge needs Python 3.10 to 3.13, this is {sys.version.split()[0]}; try: make PYTHON=python3.12")'
	@echo "building $(VENV): torch, then xbridge with its extras (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "no venv here; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(PIP) --upgrade pip setuptools wheel
	@$(PIP) $(TORCH_INDEX) torch
	@PYTHONWARNINGS=ignore $(PIP) --no-build-isolation --editable '.[all,dev]'
	@touch $@

# The peers come without what they ask for: torchvision, open_clip and others, which nothing here uses.
$(PEERS_READY): benchmarks/similarity/requirements.txt
	@echo "building $(PEERS): torch, the libraries to compare with, then xbridge (a few minutes the first time)"
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip --disable-pip-version-check install --quiet $(TORCH_INDEX) torch==2.13.0
	@$(PEERS)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --requirement $<
	@$(PEERS)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Against other libraries: the matrix of agreement, the stress sets and their page, and the test of both.
agreement: $(PEERS_READY)
	@$(PEERS)/bin/python -m benchmarks.similarity.agreement
	@$(PEERS)/bin/python -m benchmarks.similarity.stress
	@$(PEERS)/bin/python -m pytest tests/similarity/test_peers.py

bench-similarity: $(PEERS_READY)
	@$(PEERS)/bin/python -m benchmarks.similarity.bench --tasks $(TASKS) --repeats $(REPEATS)

test: check test-fast test-study

check: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

test-fast: $(READY)
	@$(BIN)/python -m pytest

# The same tests with every native operator switched off.
test-reference: $(READY)
	@XBRIDGE_NATIVE=off $(BIN)/python -m pytest tests/ops tests/similarity tests/analysis tests/activations \
	  tests/tasks/test_sentence_retrieval.py tests/test_cka_command.py

test-slow: $(READY)
	@$(BIN)/python -m pytest -m slow

test-study: $(READY)
	@$(BIN)/python -m pytest -m study

# On a Slurm of two nodes in network namespaces (Linux, root; a few Debian packages, see tests/cluster/install.sh).
test-cluster: $(READY)
	@tests/cluster/install.sh
	@$(BIN)/python -m pytest -m cluster -rs tests/cluster

# Every GPU kernel, compiled without a GPU (about two minutes on two cores): CUDA C++ where nvcc is, then Triton.
check-kernels: $(READY)
	@if command -v nvcc > /dev/null; then \
	  XBRIDGE_CUDA=check $(BIN)/python setup.py --quiet build_ext --build-temp build/check-kernels; \
	else echo "no nvcc here, so the CUDA kernels stay unchecked"; fi
	@$(BIN)/python -m xbridge.ops.triton.ahead_of_time

ci: check test-fast test-reference test-slow test-study test-cluster check-kernels

clean:
	rm -rf $(VENV) build dist *.egg-info
