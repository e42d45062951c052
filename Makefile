# hermesd's targets. `go test ./...` needs none of them.

GO ?= go
PEER ?= memcached

.PHONY: build rdma test-rdma test-rdma-full test race vet fuzz clients bench-peer chaos failover bench-group memory explore-full soak mutate local tla tla-short tla-traces tla-full ci cost-rdma

build: ## the binary, without cgo
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/hermesd .

rdma: ## the binary with RDMA (needs cgo and libibverbs-dev)
	CGO_ENABLED=1 $(GO) build -trimpath -tags rdma -o bin/hermesd .

test-rdma: ## the tests that need RDMA devices, in a virtual machine with software ones (installs what it needs)
	rdma/test short

test-rdma-full: ## the same at full length: a quarter of an hour
	rdma/test full

cost-rdma: ## what a replicated set costs: calls of verbs, completions, crossings, against TCP's system calls
	rdma/test cost

test: ## what the README promises
	$(GO) test ./...

# The engine's exploration, and what is tried with its rules taken out, run in one goroutine each: the race detector only makes them slow.
ONE_GOROUTINE = ^(TestExplore|TestRules|TestWithoutRules|TestSimulationCatches|TestTorture)$$

race: ## the same under the race detector, long simulations shortened
	$(GO) test -race -short -skip '$(ONE_GOROUTINE)' ./...

explore-full: ## every configuration of the engine's explorer, not a sample; takes hours
	$(GO) test ./replication -run '^TestExplore$$' -explore.full -v -timeout 0

vet:
	test -z "$$(gofmt -l $$(git ls-files '*.go'))"
	$(GO) vet ./...

FUZZTIME ?= 30s
fuzz: ## every parser and decoder for FUZZTIME each
	$(GO) run ./bench/fuzzall -time $(FUZZTIME)

SOAKTIME ?= 10m
SOAKFROM ?= $(shell date +%s)000
SOAKTEST ?= TestSimulation
soak: ## groups simulated from new seeds for SOAKTIME (SOAKTEST: of which kind); a seed that fails is printed with the command that repeats it
	$(GO) test ./replication -run '$(SOAKTEST)$$' -v -timeout 0 -sim.from=$(SOAKFROM) -sim.runs=1 -sim.for=$(SOAKTIME)

MUTATESEEDS ?= 6000
mutate: ## every broken world and engine of the simulation, until a seed catches it, also the ones that do harm rarely: some minutes
	$(GO) test ./replication -run 'TestSimulationCatches|TestRules$$' -v -timeout 0 -sim.mutate=$(MUTATESEEDS)

local: build ## a group of three on 11211, 11212, 11213
	bin/hermesd local --replicas 3 --port 11211

clients: build ## memcached clients that nobody here wrote, against one replica and against three (installs them)
	bench/clients/against-hermesd bin/hermesd

CHAOSTIME ?= 20m
CHAOSSEED ?= 0
chaos: build ## groups in network namespaces, broken in every way for CHAOSTIME, under clients whose answers are judged (root, ip, nft)
	$(GO) build -o bin/chaos ./bench/chaos
	bin/chaos -hermesd bin/hermesd -time $(CHAOSTIME) -seed $(CHAOSSEED) -python "$$(bench/clients/pymemcache-venv)" $(CHAOSFLAGS)

failover: build ## what clients notice of a replica's death and return, and what idle replicas cost; wants a machine that is idle
	bin/hermesd bench failover $(BENCHFLAGS)

bench-peer: build ## CPU per operation and throughput against PEER, in turn, as ratios
	bin/hermesd bench peer --hermesd bin/hermesd --peer $(PEER) $(BENCHFLAGS)

bench-group: build ## CPU, messages and system calls of an operation in groups of one and of three
	bin/hermesd bench group $(BENCHFLAGS)

SECONDS_OF_LOAD ?= 600
memory: build ## mixed load on full tables, values up to 100 kB: resident memory over the time
	bin/hermesd bench group --replicas 1,3 --ratios 1:4 --values 10-100000 --keys 50000 --pipelines 4 --memory 256 --seconds $(SECONDS_OF_LOAD)

tla: ## the specifications checked by TLC (needs Java), and that each of their rules is needed
	tla/check ci

tla-short: ## the quicker ones: two minutes
	tla/check short

tla-traces: ## whether what the engine does, simulated and live, is an execution of its specification: a minute
	tla/check traces

tla-full: ## the same with larger bounds: a quarter of an hour
	tla/check full

ci:
	bash .ci/run
