# `make demo` and `make test` are all that a fresh machine with Python >= 3.10 and make needs; a second run of
# either starts from the environment that the first one left in $(VENV).

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
OUT ?= out
BENCH ?= bench/results
# Where torch comes from: its CPU builds on a machine without an NVIDIA driver, else pip's own index (empty).
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi 2>/dev/null),,https://download.pytorch.org/whl/cpu)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Where Triton's kernels are checked without a GPU: the packages of $(VENV), and Triton's before them.
KERNELS := $(VENV)-kernels
# pip alone would wait minutes for an index that does not answer.
PROBE := $(BIN)/python -c "import urllib.request as r; r.urlopen('$(TORCH_INDEX)/torch/', timeout=10)" 2>/dev/null
# Of the extension.
SOURCES := $(wildcard csrc/*/*.* csrc/*/*/*.*)
# What an editable installation must be repeated for; Python sources are read where they are.
BUILD_INPUTS := pyproject.toml setup.py constraints.txt amu_fast/ops/schemas.py $(SOURCES)

.PHONY: help demo test test-all lint kernels kernels-next table table-quick compare compare-quick language language-quick bench docs sanitize release-check clean
.DELETE_ON_ERROR:

help:
	@echo "make demo         install into $(VENV) and run the main job on real images"
	@echo "make test         install with the C++ extension, lint and run the tests (test-all: the slow ones too)"
	@echo "make lint         ruff, clang-format, mypy"
	@echo "make kernels      the Triton kernels without a GPU, in $(KERNELS): interpreted, proved in bounds, compiled"
	@echo "make kernels-next the same kernels compiled by Triton $(NEXT_TRITON), in $(KERNELS)-next"
	@echo "make table        the table of methods, up to 2 hours, resumable (table-quick: up to 10 minutes)"
	@echo "make compare      every method on three forget sets at four budgets, a day, resumable (compare-quick: 10 minutes)"
	@echo "make language     the table of methods on small language models, up to 45 minutes, resumable (language-quick: 5)"
	@echo "make bench        the benchmarks with every peer that installs, into $(BENCH): 20 minutes at most, alone"
	@echo "make docs         the site with its API reference, into $(OUT)/site; it opens from the file system"
	@echo "make sanitize     the C++ part and the emulated CUDA part under ASan and UBSan"
	@echo "make release-check  a wheel of today's torch under torch $(OLD_TORCH), in an environment of its own (gigabytes)"
	@echo "make clean        remove build products; $(VENV) and $(OUT) stay"
	@echo "variables: PYTHON=$(PYTHON) VENV=$(VENV) TORCH_INDEX=$(TORCH_INDEX) JOBS=$(JOBS) OUT=$(OUT)"

demo: $(VENV)/.installed-demo
	@echo "==> amu-fast demo, results in $(OUT)/demo"
	$(BIN)/amu-fast demo --out $(OUT)/demo $(ARGS)

test: lint kernels
	@echo "==> tests, $(JOBS) at a time"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) $(ARGS)

test-all: lint
	@$(MAKE) kernels ARGS="--run-slow $(ARGS)"
	@echo "==> all tests, the slow ones too, $(JOBS) at a time"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --run-slow $(ARGS)

lint: $(VENV)/.installed-dev
	@echo "==> ruff, clang-format, mypy"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(SOURCES) $(wildcard tests/csrc/emulated/*.* tests/csrc/emulated/*/*.*)
	$(BIN)/mypy

# Interpreter or compiler is chosen for a whole process. Compiled kernels are kept nowhere: each run compiles anew.
KERNEL_TESTS = OMP_NUM_THREADS=1 TRITON_CACHE_DIR=$(abspath $(OUT))/triton $(1)/bin/python -m pytest -n $(JOBS) \
  -p no:cacheprovider

kernels: $(KERNELS)/.installed
	@rm -rf $(OUT)/triton
	@echo "==> kernels in Triton's interpreter and under its sanitizer"
	TRITON_INTERPRET=1 $(call KERNEL_TESTS,$(KERNELS)) tests/kernels $(ARGS)
	@echo "==> kernels compiled for sm_80 and sm_90"
	$(call KERNEL_TESTS,$(KERNELS)) tests/kernels/test_compiled.py $(ARGS)

NEXT_TRITON ?= 3.9.0

kernels-next: $(KERNELS)-next/.installed
	@rm -rf $(OUT)/triton
	@echo "==> kernels compiled by Triton $(NEXT_TRITON)"
	$(call KERNEL_TESTS,$(KERNELS)-next) tests/kernels/test_compiled.py $(ARGS)

table: $(VENV)/.installed-demo
	@echo "==> the table of methods, records in $(OUT)/table"
	$(BIN)/python -m amu_fast.bench.table --out $(OUT)/table $(ARGS)

table-quick: $(VENV)/.installed-demo
	@echo "==> the quick table of methods, records in $(OUT)/table-quick"
	$(BIN)/python -m amu_fast.bench.table --quick --out $(OUT)/table-quick $(ARGS)

compare: $(VENV)/.installed-compare
	@echo "==> the comparison of all methods, records in $(OUT)/compare"
	$(BIN)/amu-fast compare --out $(OUT)/compare $(ARGS)

compare-quick: $(VENV)/.installed-compare
	@echo "==> the quick comparison, records in $(OUT)/compare-quick"
	$(BIN)/amu-fast compare --quick --out $(OUT)/compare-quick $(ARGS)

language: $(VENV)/.installed-hf
	@echo "==> the table of methods on language models, records in $(OUT)/language"
	$(BIN)/python -m amu_fast.bench.language --out $(OUT)/language $(ARGS)

language-quick: $(VENV)/.installed-hf
	@echo "==> the quick table of methods on language models, records in $(OUT)/language-quick"
	$(BIN)/python -m amu_fast.bench.language --quick --out $(OUT)/language-quick $(ARGS)

bench: $(VENV)/.installed-bench
	@echo "==> benchmarks, records and figures in $(BENCH)"
	$(BIN)/python -m amu_fast.bench cpu --out $(BENCH) $(ARGS)

# MkDocs 1.6 is meant; its theme would print a notice on version 2.
docs: $(VENV)/.installed-docs
	@echo "==> the site, in $(OUT)/site"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict --site-dir "$(abspath $(OUT))/site" $(ARGS)
	@echo "==> open $(OUT)/site/index.html"

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	rm -f amu_fast/_C*.so amu_fast/_build_info.json $(VENV)/.installed-*
	find amu_fast bench kernels tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.torch: constraints.txt
	@echo "==> virtual environment in $(VENV)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "pip>=24" "setuptools>=77" ninja
	@if [ -n "$(TORCH_INDEX)" ] && echo "==> torch from $(TORCH_INDEX)" && $(PROBE) && $(PIP) install --quiet \
	  --retries 1 --timeout 60 -c constraints.txt --index-url "$(TORCH_INDEX)" torch numpy; then :; else \
	  if [ -n "$(TORCH_INDEX)" ]; then echo "==> $(TORCH_INDEX) cannot be used here; falling back"; fi; \
	  echo "==> torch from pip's own index (on Linux perhaps its large CUDA build)"; \
	  $(PIP) install --quiet -c constraints.txt torch numpy; \
	fi
	@$(BIN)/python -c "import torch; print('==> torch', torch.__version__)"
	@touch $@

# AMU_FAST_BUILD_EXT=auto: without a compiler the demo runs on the PyTorch references.
$(VENV)/.installed-demo: $(VENV)/.torch $(BUILD_INPUTS)
	@echo "==> installing amu-fast for the demo"
	AMU_FAST_BUILD_EXT=$${AMU_FAST_BUILD_EXT:-auto} \
	  $(PIP) install --quiet --no-build-isolation -c constraints.txt -e ".[demo,report]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.torch $(BUILD_INPUTS)
	@echo "==> installing amu-fast with its C++ extension and the development tools"
	AMU_FAST_BUILD_EXT=1 $(PIP) install --quiet --no-build-isolation -c constraints.txt -e ".[dev]"
	@touch $@

$(VENV)/.installed-compare: $(VENV)/.torch $(BUILD_INPUTS)
	@echo "==> installing amu-fast for comparisons"
	AMU_FAST_BUILD_EXT=$${AMU_FAST_BUILD_EXT:-auto} \
	  $(PIP) install --quiet --no-build-isolation -c constraints.txt -e ".[compare,demo,report]"
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.torch $(BUILD_INPUTS)
	@echo "==> installing what makes the site"
	AMU_FAST_BUILD_EXT=$${AMU_FAST_BUILD_EXT:-auto} \
	  $(PIP) install --quiet --no-build-isolation -c constraints.txt -e ".[docs]"
	@touch $@

$(VENV)/.installed-hf: $(VENV)/.torch $(BUILD_INPUTS)
	@echo "==> installing amu-fast with transformers"
	AMU_FAST_BUILD_EXT=$${AMU_FAST_BUILD_EXT:-auto} \
	  $(PIP) install --quiet --no-build-isolation -c constraints.txt -e ".[hf,report]"
	@touch $@

# No second torch: this environment sees the packages of $(VENV) behind its own.
BEHIND = import sysconfig; site = sysconfig.get_path("purelib"); print(f"import site; site.addsitedir({site!r})")
define kernel_environment
	rm -rf $(1)
	$(BIN)/python -m venv --without-pip $(1)
	$(BIN)/python -c '$(BEHIND)' > "$$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/behind.pth"
	$(PIP) --python $(1)/bin/python install --quiet $(2)
	@touch $(1)/.installed
endef

$(KERNELS)/.installed: kernels/constraints.txt $(VENV)/.installed-dev
	@echo "==> Triton and its sanitizer in $(KERNELS)"
	$(call kernel_environment,$(KERNELS),-c kernels/constraints.txt triton triton-viz numpy)

$(KERNELS)-next/.installed: $(VENV)/.installed-dev
	@echo "==> Triton $(NEXT_TRITON) in $(KERNELS)-next"
	$(call kernel_environment,$(KERNELS)-next,triton==$(NEXT_TRITON))

# The package is built into a folder of its own, and the tests start there: from the root, every Python they start would
# find the source tree first. nvcc is left out, which has leaks of its own. The interpreter is no sanitized program: the
# runtime is preloaded, libstdc++ beside it so that exceptions are seen, and leaks are not looked for. Fibres have stacks
# that ASan knows nothing of.
SANITIZE := -fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=all -fno-omit-frame-pointer -g1
SANITIZED := $(abspath $(OUT))/sanitize
TESTS_FROM_ELSEWHERE := pytest -c $(CURDIR)/pyproject.toml --rootdir $(CURDIR) -p no:cacheprovider
PRELOAD = $(foreach library,libasan.so libstdc++.so,$(shell $(or $(CXX),c++) -print-file-name=$(library)))

sanitize: $(VENV)/.installed-dev
	@echo "==> the C++ extension with ASan and UBSan, in $(SANITIZED)"
	rm -rf $(SANITIZED)
	AMU_FAST_BUILD_EXT=1 AMU_FAST_NO_CLONES=1 CFLAGS="$(SANITIZE)" LDFLAGS="$(SANITIZE)" \
	  $(BIN)/python setup.py --quiet build --build-base $(SANITIZED) --build-lib $(SANITIZED)/lib
	@echo "==> tests/ops and tests/csrc with it"
	cd $(SANITIZED) && PYTHONPATH=$(SANITIZED)/lib LD_PRELOAD="$(strip $(PRELOAD))" OMP_NUM_THREADS=1 \
	  ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  CXXFLAGS="$(SANITIZE) --param asan-stack=0" \
	  $(abspath $(BIN))/$(TESTS_FROM_ELSEWHERE) $(CURDIR)/tests/ops $(CURDIR)/tests/csrc \
	  --ignore $(CURDIR)/tests/csrc/test_nvcc.py $(ARGS)

OLD_TORCH ?= 2.11.0
RELEASE := $(abspath $(OUT))/release
RELEASE_PIP := $(RELEASE)/venv/bin/python -m pip --disable-pip-version-check

release-check: $(VENV)/.installed-dev
	@echo "==> a wheel from the torch of $(VENV), in $(RELEASE)"
	rm -rf $(RELEASE)
	AMU_FAST_BUILD_EXT=1 $(PIP) wheel --quiet --no-build-isolation --no-deps -w $(RELEASE) .
	@echo "==> torch $(OLD_TORCH) in $(RELEASE)/venv"
	$(BIN)/python -m venv $(RELEASE)/venv
	@if [ -n "$(TORCH_INDEX)" ] && $(PROBE) && $(RELEASE_PIP) install --quiet --retries 1 --timeout 60 \
	  --index-url "$(TORCH_INDEX)" torch==$(OLD_TORCH) numpy; then :; else \
	  echo "==> from pip's own index (on Linux its large CUDA build)"; \
	  $(RELEASE_PIP) install --quiet torch==$(OLD_TORCH) numpy; \
	fi
	$(RELEASE_PIP) install --quiet $(RELEASE)/*.whl "pytest>=8" "hypothesis>=6.100" "mpmath>=1.3"
	@echo "==> tests/ops with the wheel"
	cd $(RELEASE) && OMP_NUM_THREADS=1 $(RELEASE)/venv/bin/$(TESTS_FROM_ELSEWHERE) $(CURDIR)/tests/ops $(ARGS)

# Peers of the benchmarks. If they do not install together, each is tried alone; one that is missing is recorded.
PEERS := cvxpylayers "jax<0.11" jaxopt==0.8.5 linear_operator==0.6.1 torchopt==0.7.3 xitorch==0.5.1
# These ask for other versions than they need, or are what one of them imports. betty-ml's metadata no pip reads.
PEERS_ALONE := qpth==0.0.18 pyDVL==0.10.0 dattri==0.3.0 hypergrad==0.0.1 curvlinops-for-pytorch==3.0.1 \
  backpack-for-pytorch einops einconv opt-einsum unfoldNd

$(VENV)/.installed-bench: $(VENV)/.torch $(BUILD_INPUTS)
	@echo "==> installing amu-fast with its C++ extension and the benchmarks' peers"
	AMU_FAST_BUILD_EXT=1 $(PIP) install --quiet --no-build-isolation -c constraints.txt -e ".[bench]" || { \
	  AMU_FAST_BUILD_EXT=1 $(PIP) install --quiet --no-build-isolation -c constraints.txt -e ".[report]" && \
	  for peer in $(PEERS); do $(PIP) install --quiet -c constraints.txt "$$peer" || echo "==> without $$peer"; done; }
	for peer in $(PEERS_ALONE); do $(PIP) install --quiet --no-deps "$$peer" || echo "==> without $$peer"; done
	@touch $@
