PYTHON ?= .venv/bin/python
# protoc takes its plugins by path: the one beside the interpreter.
MYPY_GRPC := $(dir $(PYTHON))protoc-gen-mypy_grpc

# Where the generated code goes; a check regenerates elsewhere and compares.
GENERATED ?= .

.PHONY: generate
generate:  ## Regenerate csi_liqo/rpc/pb from protos/ (the virtual path makes the imports absolute)
	$(PYTHON) -m grpc_tools.protoc -Icsi_liqo/rpc/pb=protos \
		--plugin=protoc-gen-mypy_grpc=$(MYPY_GRPC) \
		--python_out=$(GENERATED) --pyi_out=$(GENERATED) \
		--grpc_python_out=$(GENERATED) --mypy_grpc_out=generate_concrete_servicer_stubs,only_async:$(GENERATED) \
		protos/csi.proto protos/pluginregistration.proto
