# make train   a virtual environment, MNIST, and a CNN that learns it
# make test    the whole suite, in the same kind of environment
# make test-ptx   the tests of the kernels on their compiled code, executed on the CPU: a quarter of an hour on two cores,
#                 most of it compiling
# make test-keras   the tests of Keras' backend with the oldest Keras that it supports (KERAS=3.14.0: with that one)
# make lint    formatting and rules
# make links   the package as a folder of links, .links, for editors and PYTHON=...; the targets above make it too
# make bench   every kernel, training steps and overheads, on the GPU if there is one (ARGS="matmul --quick", "--list")
# make gpu     on a machine with an NVIDIA GPU: tests and benchmarks in order of worth, in ten minutes (ARGS=--more: the rest)
# make gpu-cache   before that, elsewhere: the compiled kernels to carry along (TRITON=3.6.0 ARCH=90, and the GPU machine's
#              Python: BASE=python3.12)
# make gpu-report  after that: what came back becomes bench/results and the README's tables
# make clean   the environment and all caches of this checkout (not the data)
#
# Where there is an NVIDIA driver, the environment gets the extra cuda12 or cuda13 that it serves, and says so.
# PYTHON=python3 make ...  uses that interpreter's environment as it is and installs nothing.
# OUT=folder make gpu      puts the results there (.gpu).

VENV := .venv
BASE ?= python3

ifdef PYTHON
  RUN := PYTHONPATH=$(CURDIR)/.links $(PYTHON)
  TRAIN_READY := links
  TEST_READY := links
else
  RUN := $(VENV)/bin/python
  TRAIN_READY := $(VENV)/train-ready
  TEST_READY := $(VENV)/test-ready
endif

ARGS ?=
KERAS ?= 3.13.0

OUT ?= .gpu
TRITON ?= 3.6.0
ARCH ?= 90
TRITON_CACHE := /tmp/tilegrad-triton
CUDA = $(eval CUDA := $(shell $(BASE) kernels/device/cuda_extra.py))$(CUDA)
WITH_CUDA = $(if $(CUDA),$(comma)$(CUDA))
comma := ,

.PHONY: train train-mlp test test-ptx test-keras lint bench gpu gpu-report gpu-cache links clean

train: $(TRAIN_READY)
	$(RUN) examples/mnist_cnn.py $(ARGS)

train-mlp: $(TRAIN_READY)
	$(RUN) examples/mnist_mlp.py $(ARGS)

# One process a core, so each keeps to one thread of BLAS.
test: $(TEST_READY)
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist worksteal $(ARGS)

# Without what is of the CPU, or compiles and executes in processes of its own.
test-ptx: APART := cpu system compile simulate/ptx
test-ptx: export TILEGRAD_SIMULATE := ptx
test-ptx: $(TEST_READY)
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist worksteal tests/kernels \
		$(APART:%=--ignore=tests/kernels/%) $(ARGS)

# That Keras is a folder before the environment's own. Keras 3.13 asks NumPy for a name that NumPy warns about.
OLDER := $(CURDIR)/.cache/keras-$(KERAS)
test-keras: $(TEST_READY)
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(OLDER) "keras==$(KERAS)"
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 PYTHONPATH=$(OLDER):$(CURDIR)/.links \
		$(lastword $(RUN)) -m pytest -n auto --dist worksteal -W "ignore:In the future:FutureWarning" tests/keras $(ARGS)

lint: $(TEST_READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

bench: $(TEST_READY)
	$(RUN) -m tilegrad.bench $(ARGS)

gpu: $(TEST_READY)
	$(RUN) -m tilegrad.bench.on_gpu run --out $(OUT) $(ARGS)

gpu-report: $(TEST_READY)
	$(RUN) -m tilegrad.bench.on_gpu report $(OUT)

gpu-cache: $(TEST_READY) links
	$(BASE) -m venv .venv-triton
	.venv-triton/bin/python -m pip install --quiet --disable-pip-version-check "triton==$(TRITON)" "numpy>=2.1" "ml_dtypes>=0.5"
	rm -rf $(TRITON_CACHE)
	TRITON_CACHE_DIR=$(TRITON_CACHE) PYTHONPATH=$(CURDIR)/.links .venv-triton/bin/python -m tilegrad.kernels.compile --defaults --arch $(ARCH)
	$(RUN) -m tilegrad.bench.on_gpu pack $(TRITON_CACHE)

$(VENV)/python-ready:
	@$(BASE) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"make: {sys.executable} is Python {v[0]}.{v[1]}; expected 3.11 or newer (make BASE=python3.12 ...)")'
	$(BASE) -m venv $(VENV)
	touch $@

$(VENV)/train-ready: pyproject.toml $(VENV)/python-ready | links
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[cpu$(WITH_CUDA)]"
	touch $@

$(VENV)/test-ready: pyproject.toml $(VENV)/python-ready | links
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[test$(WITH_CUDA)]"
	touch $@ $(VENV)/train-ready

# The package `tilegrad` as a folder of links: what an installation makes of engine/, kernels/ and bench/. Editors look
# here too (pyproject.toml).
links:
	@mkdir -p .links/tilegrad
	@ln -sfn $(filter-out %/__pycache__,$(wildcard $(CURDIR)/engine/*)) $(CURDIR)/kernels $(CURDIR)/bench .links/tilegrad/

clean:
	rm -rf $(VENV) .venv-triton .cache .links *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
