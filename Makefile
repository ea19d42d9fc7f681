# Everything that a person and CI do here. `make` alone lists it.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
IMAGE   ?= model-csi:$(VERSION)
LDFLAGS := -s -w -X main.version=$(VERSION)
GOARCH  ?= $(shell go env GOARCH)
# How long each fuzz target runs: a number of inputs (10000x) or a time (1m); which ones, and how many side by side.
FUZZTIME ?= 10000x
FUZZ     ?= .
FUZZJOBS ?= 1
# Modules besides the root: their dependencies stay out of the product's.
MODULES := test hack test/e2e

# Tools are built once for each version and kept between checkouts.
TOOLS         ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/model-csi/tools
GOLANGCI_LINT := $(TOOLS)/golangci-lint@v2.15.0
HELM          := $(TOOLS)/helm@v4.3.1
HELM_DOCS     := $(TOOLS)/helm-docs@v1.14.2

.DEFAULT_GOAL := help
.PHONY: help build cross demo test lint fuzz image e2e cluster cluster-down bench bench-docs chart generate check-generated tools clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build bin/model-csi, a static binary
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/model-csi ./cmd/model-csi

# On macOS there is no node: models are packed and looked at there.
CROSS := $(addprefix cross-,linux-amd64 linux-arm64 darwin-amd64 darwin-arm64)
cross: $(CROSS) ## Build bin/model-csi-SYSTEM-ARCH for every supported one
	GOOS=darwin go vet ./cmd/model-csi

.PHONY: $(CROSS)
$(CROSS): cross-%:
	CGO_ENABLED=0 GOOS=$(word 1,$(subst -, ,$*)) GOARCH=$(word 2,$(subst -, ,$*)) go build -trimpath -ldflags '$(LDFLAGS)' -o bin/model-csi-$* ./cmd/model-csi

demo: build root ## Publish a model from a real registry over CSI, on this machine alone (root)
	cd hack && go run ./demo -binary ../bin/model-csi

# The tests of the test module run a binary that the go command does not know as an input: their results are not cached.
test: root ## Vet and run all tests under the race detector, with real mounts (root)
	go vet ./... && go test -race -timeout 30m ./...
	cd test && go vet ./... && go test -race -count=1 -timeout 30m ./...

lint: $(GOLANGCI_LINT) ## Run golangci-lint, import rules included, over every module
	$(GOLANGCI_LINT) run ./...
	for m in $(MODULES); do (cd $$m && $(GOLANGCI_LINT) run ./...) || exit 1; done

fuzz: ## Run the fuzz targets that match FUZZ for FUZZTIME (10000x, or a time such as 1m), FUZZJOBS at once
	hack/fuzz.sh $(FUZZTIME) '$(FUZZ)' $(FUZZJOBS)

image: ## Build the container image with docker buildx
	docker buildx build --build-arg VERSION=$(VERSION) --tag $(IMAGE) --load .

e2e: root ## Run the end-to-end tests on a real Kubernetes node made for them (root)
	cd test/e2e && go test -count=1 -v -timeout 45m ./...

cluster: root ## Leave the end-to-end cluster running for a person (root)
	cd test/e2e && go run ./cmd/cluster up

cluster-down: root ## Remove what make cluster left running
	cd test/e2e && go run ./cmd/cluster down

bench: build root ## Measure pulls and publishes (root)
	cd hack && go run ./bench -binary ../bin/model-csi

bench-docs: build root ## Measure, and write the figures and the chart into docs/performance.md (root)
	cd hack && go run ./bench -binary ../bin/model-csi -docs ../docs

chart: $(HELM) ## Lint the Helm chart and render it with every values file of its ci directory
	hack/chart.sh $(HELM)

generate: $(HELM) $(HELM_DOCS) ## Render deploy/ from the chart, and the tables of the documentation
	hack/generate.sh $(HELM) $(HELM_DOCS)

check-generated: $(HELM) $(HELM_DOCS) ## Fail when something generated is out of date
	hack/generate.sh --check $(HELM) $(HELM_DOCS)

tools: $(GOLANGCI_LINT) $(HELM) $(HELM_DOCS) ## Build the tools that lint and generate need

clean: ## Remove what was built here (the tools stay)
	rm -rf bin dist

.PHONY: root
root:
	@test "$$(id -u)" = 0 || { echo 'This needs root: it mounts filesystems. Run it as root, for example with sudo.' >&2; exit 1; }

# go install names the binary after the package; the version becomes part of the name here.
define install
	@mkdir -p $@.tmp && echo "building $(@F)" && GOFLAGS= GOBIN=$@.tmp go install $(1)@$(lastword $(subst @, ,$(@F)))
	@mv $@.tmp/$(firstword $(subst @, ,$(@F))) $@ && rmdir $@.tmp
endef

$(GOLANGCI_LINT):
	$(call install,github.com/golangci/golangci-lint/v2/cmd/golangci-lint)
$(HELM):
	$(call install,helm.sh/helm/v4/cmd/helm)
$(HELM_DOCS):
	$(call install,github.com/norwoodj/helm-docs/cmd/helm-docs)
