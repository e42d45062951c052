# hermesd's targets. `go test ./...` needs none of them.

GO ?= go
PEER ?= memcached

.PHONY: build test race vet fuzz clients bench-peer explore-full soak mutate local ci

build: ## the binary, without cgo
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/hermesd .

test: ## what the README promises
	$(GO) test ./...

race: ## the same under the race detector, long simulations shortened
	$(GO) test -race -short ./...

explore-full: ## every configuration of the engine's explorer, not a sample; takes hours
	$(GO) test ./replication -run '^TestExplore$$' -explore.full -v -timeout 0

vet:
	test -z "$$(gofmt -l $$(git ls-files '*.go'))"
	$(GO) vet ./...

FUZZTIME ?= 30s
fuzz: ## every parser and decoder for FUZZTIME each
	$(GO) run ./bench/fuzzall -time $(FUZZTIME)

local: build ## a group of three on 11211, 11212, 11213
	bin/hermesd local --replicas 3 --port 11211

clients: build ## memcached clients that nobody here wrote, against one replica and against three (installs them)
	bench/clients/against-hermesd bin/hermesd

bench-peer: build ## CPU per operation and throughput against PEER, in turn, as ratios
	bin/hermesd bench peer --hermesd bin/hermesd --peer $(PEER) $(BENCHFLAGS)

ci:
	bash .ci/run
