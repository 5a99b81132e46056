# Everything a developer or CI does is one target here; each is safe to repeat.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
PYTHON ?= $(VENV)/bin/python
BIN := $(dir $(PYTHON))
INSTALLED := $(VENV)/.installed
# protoc takes its plugins by path: the one beside the interpreter.
MYPY_GRPC := $(BIN)protoc-gen-mypy_grpc
PYTEST := $(PYTHON) -m pytest

# Where the generated code goes; a check regenerates elsewhere and compares.
GENERATED ?= .

.PHONY: help
help:  ## Say what there is
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# --- see it work ---------------------------------------------------------------

.PHONY: demo
demo: $(INSTALLED)  ## Two clusters, the driver, a StatefulSet in both; checks all it shows
	$(PYTHON) -m lab.demo $(ARGS)

.PHONY: lab
lab: $(INSTALLED)  ## Two clusters with the driver and nothing else
	$(PYTHON) -m lab up $(ARGS)

.PHONY: lab-down
lab-down: $(INSTALLED)  ## End all the lab started, also after a crash
	$(PYTHON) -m lab down $(ARGS)

.PHONY: image
image: $(INSTALLED)  ## Build the driver's container image
	$(PYTHON) -m lab image $(ARGS)

# --- find out whether it is right ------------------------------------------------

.PHONY: test
test: check binaries  ## Everything: the checks, then every test in one run
	$(PYTEST) --numprocesses=3 --dist=loadfile --no-loadscope-reorder $(ARGS)

.PHONY: unit
unit: $(INSTALLED)  ## The tests that need neither root nor a cluster
	$(PYTEST) tests/unit $(ARGS)

.PHONY: e2e
e2e: binaries  ## The tests on whole clusters with kubelets
	$(PYTEST) tests/e2e $(ARGS)

.PHONY: sanity
sanity: binaries  ## csi-sanity against the driver on a real API server
	$(PYTEST) tests/sanity $(ARGS)

.PHONY: soak
soak: binaries  ## Faults at random for ten minutes, then an account of every volume
	$(PYTEST) tests/soak --capture=no --soak-seconds=600 $(ARGS)

.PHONY: check
check: $(INSTALLED) check-generated  ## Format, lint, types, imports, generated code
	$(BIN)ruff format --check --quiet
	$(BIN)ruff check --quiet
	$(BIN)mypy
	$(BIN)lint-imports

.PHONY: check-generated
check-generated: $(INSTALLED)
	rm -rf build/generated && mkdir -p build/generated
	$(MAKE) --no-print-directory generate GENERATED=build/generated
	diff -r --exclude=__pycache__ --exclude=__init__.py csi_liqo/rpc/pb build/generated/csi_liqo/rpc/pb

.PHONY: format
format: $(INSTALLED)  ## Format the code and mend what ruff can mend
	$(BIN)ruff check --fix --quiet
	$(BIN)ruff format --quiet

# --- find out whether it is fast ---------------------------------------------------

.PHONY: bench
bench: $(INSTALLED)  ## Measure; ARGS='--only NAME --runs N --bursts N --percent N' for less
	$(PYTHON) -m bench run $(ARGS)

.PHONY: bench-readme
bench-readme: $(INSTALLED)  ## Put the last results' table and plots into bench/
	$(PYTHON) -m bench report

# --- what the rest stands on ------------------------------------------------------

.PHONY: venv
venv: $(INSTALLED)  ## The Python packages that requirements/dev.txt pins

$(INSTALLED): requirements/dev.txt requirements/install.sh
	requirements/install.sh $(VENV)
	touch $@

.PHONY: binaries
binaries: $(INSTALLED)  ## Kubernetes, etcd, containerd and the sidecar, built from pinned modules
	$(PYTHON) -m lab build

.PHONY: lock
lock:  ## Pin the Python packages anew, from pyproject.toml
	test -x build/lock/bin/pip-compile || python3 -m venv build/lock
	build/lock/bin/pip install --quiet 'pip-tools~=7.6'
	PATH="$(CURDIR)/build/lock/bin:$$PATH" build/lock/bin/python requirements/lock.py

# The virtual path makes the imports of the generated modules absolute.
.PHONY: generate
generate: $(INSTALLED)  ## Regenerate csi_liqo/rpc/pb from protos/
	$(PYTHON) -m grpc_tools.protoc -Icsi_liqo/rpc/pb=protos \
		--plugin=protoc-gen-mypy_grpc=$(MYPY_GRPC) \
		--python_out=$(GENERATED) --pyi_out=$(GENERATED) \
		--grpc_python_out=$(GENERATED) --mypy_grpc_out=generate_concrete_servicer_stubs,only_async:$(GENERATED) \
		protos/csi.proto protos/pluginregistration.proto
