PYTHON ?= python3
BIN = .venv/bin

PINS = $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --no-annotate --no-header pyproject.toml \
	$(addprefix --extra ,gpu deploy eval grade real site peers hub cluster dev)

.PHONY: lab test install real site site-test lint pins build bench interop deploy

lab:      ## open the course in JupyterLab
	$(PYTHON) -m course_utils.bootstrap lab

test:     ## run every test
	$(PYTHON) -m course_utils.bootstrap test

install:  ## make .venv
	$(PYTHON) -m course_utils.bootstrap install

real:     ## .venv, with the real language model of models.load("smollm2")
	$(PYTHON) -m course_utils.bootstrap real

site:     ## the pages to read, build/site/html, from the committed notebooks
	$(PYTHON) -m course_utils.bootstrap site

site-test: site  ## the built pages in Chromium
	$(BIN)/pytest -n 2 tests/site/built.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cp constraints.txt .venv/pins.txt && $(PINS) -o .venv/pins.txt && diff constraints.txt .venv/pins.txt

pins: install  ## constraints.txt from pyproject.toml; UPGRADE=--upgrade for the newest versions
	$(PINS) $(UPGRADE) -o constraints.txt

build: install  ## make labs/ from solutions/
	$(BIN)/python -m course_utils.grade build

bench: install  ## ratios, not seconds
	for f in benchmarks/*.py; do $(BIN)/python $$f || exit 1; done

interop: install  ## exchange checkpoints with auto-gptq 0.7.1, or PEER=transformers, compressed-tensors, autoawq, torchao, llama.cpp, in an environment of its own
	TQDM_DISABLE=1 PYTHONPATH=tests/common $(BIN)/python tests/interop/run.py --peer $(or $(PEER),auto-gptq)

deploy: install  ## the same compressed model in ONNX Runtime, OpenVINO, torchao, ExecuTorch, Core ML: one table (WRITE=--write keeps it)
	$(BIN)/python examples/deploy/environment.py
	.interop/deploy/bin/python examples/deploy/table.py $(WRITE)
