# The words used here are the ones CI uses. `make help` lists them.
SHELL := /bin/bash
GO ?= go
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GORELEASER := github.com/goreleaser/goreleaser/v2@v2.14.3
CYCLONEDX := github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: run
run: build ## Build, and serve on http://127.0.0.1:8000 with data under ./data
	./bin/pricemill serve

.PHONY: build
build: ## Write bin/pricemill
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/pricemill ./cmd/pricemill

# Tests that start services mostly wait: more of them at once than processors.
.PHONY: test
test: ## Run all tests; needs nothing but Go
	$(GO) test -parallel 4 -timeout 30m ./...

# The C of SQLite, translated to Go, is left uninstrumented: it runs on one goroutine at a
# time, and watching its memory costs four fifths of the tests' time.
.PHONY: test-race
test-race: ## Run all tests under the race detector; needs a C compiler
	CGO_ENABLED=1 $(GO) test -race -parallel 4 -gcflags=modernc.org/sqlite/lib=-race=false -timeout 40m ./...

.PHONY: build-race
build-race: ## Compile what test-race runs
	CGO_ENABLED=1 $(GO) test -race -gcflags=modernc.org/sqlite/lib=-race=false -run '^$$' ./...

.PHONY: test-kill
test-kill: ## Kill the service 20 times at random moments, and check every table
	PRICEMILL_TEST_KILLS=20 $(GO) test -count=1 -timeout 20m -run TestKilledAtRandomMoments -v ./cmd

.PHONY: services
services: ## Start PostgreSQL and Apache Kafka without containers; prints the variables that lead there
	@.ci/services up

.PHONY: services-down
services-down: ## End what `make services` started
	@.ci/services down

.PHONY: cluster
cluster: build ## Start what docker-compose.yml does, without containers: an API and two workers; prints the URL
	@.ci/cluster up

.PHONY: cluster-down
cluster-down: ## End what `make cluster` started; the services stay
	@.ci/cluster down

# The files can be read by all, since the processes in the containers are other
# users than you; the folder keeps others on this machine out.
.PHONY: secrets
secrets: ## Make the passwords that docker-compose.yml needs, once, under ./secrets
	@if [ -e secrets ]; then echo "secrets is there already, and the database may know it: nothing was done" >&2; exit 1; fi
	@umask 077 && rm -rf secrets.new && mkdir secrets.new && password=$$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n') && \
	printf %s "$$password" >secrets.new/postgres_password && \
	printf 'postgres://pricemill:%s@postgres:5432/pricemill' "$$password" >secrets.new/database_url && \
	chmod 644 secrets.new/* && mv secrets.new secrets

.PHONY: test-services
test-services: ## Run the integration tests on PostgreSQL, Apache Kafka and Redis; starts them if need be
	@services=$$(.ci/services up postgres kafka redis) && eval "$$services" && \
	PRICEMILL_TEST_REDIS_URL="$$REDIS_URL" && unset REDIS_URL && export PRICEMILL_TEST_REDIS_URL && \
	PRICEMILL_TEST_SERVICES=1 PRICEMILL_TEST_DATABASE_URL="$$DATABASE_URL" \
		$(GO) test -count=1 -parallel 6 -timeout 40m ./cmd ./handlers/claim ./handlers/fetch ./httpapi/apikeys ./httpapi/ratelimit ./httpapi/redis ./pipeline/log/kafka ./pipeline/log/table ./pipeline/store/postgres ./projections/requests

.PHONY: test-postgres
test-postgres: ## Run tests of the program on PostgreSQL alone, which then holds the log; starts it if need be
	@services=$$(.ci/services up) && eval "$$services" && unset KAFKA_BOOTSTRAP_SERVERS && \
	PRICEMILL_TEST_TABLE=1 $(GO) test -count=1 -parallel 4 -timeout 40m \
		-run 'TestAStandby|TestOneDatabase|TestADamagedLog|TestReplayOfATable|TestASecondProcess|TestTheMainJob|TestKilled|TestVerifyFinds|TestIngest|TestTheOrderOfAFile|TestRebuildIsKilled|TestAStreamIsTakenOver|TestMove|TestVerifyAndRebuildAfterRetention|TestTheOperationsDrill' ./cmd

.PHONY: test-deployment
test-deployment: ## Hold compose files, Dockerfile, secrets, Kubernetes manifests and the systemd unit to the rules; needs no Docker
	cd .ci/deployment && $(GO) vet . && $(GO) test -count=1 .
	cd .ci/kubernetes && $(GO) vet . && $(GO) test -count=1 .

.PHONY: test-parquet
test-parquet: build ## Read Parquet files of the program with pandas and DuckDB, and theirs with it; needs Python and the network
	@.ci/parquet

.PHONY: test-clients
test-clients: build ## Make Go and Python clients of the API's document and use them, and make requests of it; needs Python and the network
	.ci/clients/run

.PHONY: test-monitoring
test-monitoring: build ## Hold alerts and dashboard to a Prometheus that watches a service; needs prometheus, curl and Python
	.ci/monitoring

.PHONY: test-browser
test-browser: build ## Hold the dashboard to what it promises, in Chromium; PRICEMILL_TEST_SCREENSHOTS=DIR keeps pictures
	@for need in chromium npm curl; do command -v $$need >/dev/null || { echo "$$need is missing: apt-get install $$need" >&2; exit 1; }; done
	@python3 -c 'import ensurepip' || { echo "Python is missing: apt-get install python3-venv" >&2; exit 1; }
	@mkdir -p bin/browser && cp .ci/browser/package.json .ci/browser/package-lock.json bin/browser
	npm ci --prefix bin/browser --ignore-scripts --no-audit --no-fund
	python3 -m venv bin/browser/venv && bin/browser/venv/bin/pip install -q --disable-pip-version-check -r .ci/browser/requirements.txt
	cd .ci/browser && $(GO) vet . && PRICEMILL_TEST_BINARY=$(CURDIR)/bin/pricemill \
		PRICEMILL_TEST_PYTHON=$(CURDIR)/bin/browser/venv/bin/python \
		PRICEMILL_TEST_AXE=$(CURDIR)/bin/browser/node_modules/axe-core/axe.min.js $(GO) test -count=1 -timeout 10m .

.PHONY: test-workers
test-workers: ## Kill one of two workers every ten seconds for two minutes, on PostgreSQL and Apache Kafka
	@services=$$(.ci/services up) && eval "$$services" && \
	PRICEMILL_TEST_SERVICES=1 PRICEMILL_TEST_WORKERS=$${PRICEMILL_TEST_WORKERS:-2m} \
		$(GO) test -count=1 -timeout 20m -run TestWorkersAreTakenOver -v ./cmd

.PHONY: test-move
test-move: ## Move 200,000 prices from SQLite to PostgreSQL and to Apache Kafka, each move killed twice
	@services=$$(.ci/services up) && eval "$$services" && \
	PRICEMILL_TEST_SERVICES=1 PRICEMILL_TEST_MOVE=$${PRICEMILL_TEST_MOVE:-200000} \
		$(GO) test -count=1 -timeout 60m -run TestMove -v ./cmd

.PHONY: test-lonely
test-lonely: ## Append a day's worth of lonely records, 864,000, and hold memory and start to their limits; PRICEMILL_TEST_LONELY=5000000 for more
	PRICEMILL_TEST_LONELY=$${PRICEMILL_TEST_LONELY:-864000} $(GO) test -count=1 -timeout 4h -run TestLonelyRecords -v ./cmd

.PHONY: test-rebuild
test-rebuild: ## Rebuild a million events under load, swap 50 times, kill 10 times: on SQLite, and on PostgreSQL and Apache Kafka
	PRICEMILL_TEST_REBUILD=$${PRICEMILL_TEST_REBUILD:-1000000} $(GO) test -count=1 -timeout 40m -run 'TestRebuild|TestTheStepsOfReplay' -v ./cmd
	@services=$$(.ci/services up) && eval "$$services" && \
	PRICEMILL_TEST_SERVICES=1 PRICEMILL_TEST_REBUILD=$${PRICEMILL_TEST_REBUILD:-1000000} \
		$(GO) test -count=1 -timeout 40m -run 'TestRebuild|TestTheStepsOfReplay' -v ./cmd

.PHONY: test-faults
test-faults: ## Put the service under every fault of docs/reliability.md, and print the table; takes more than an hour
	.ci/faults long

.PHONY: test-faults-short
test-faults-short: ## The same with a few cycles of each, in about five minutes
	.ci/faults short

.PHONY: fuzz
fuzz: ## Run each fuzz target for a minute
	.ci/fuzz 60s

.PHONY: mutate
mutate: ## Change the program line by line, and see that tests notice; an hour, or MUTATE='-sample 0.1' or files
	cd .ci/mutate && $(GO) vet . && $(GO) test . && $(GO) run . -root ../.. $(MUTATE)

.PHONY: bench
bench: build ## Measure chain, rebuild, reads and API on the stack that the settings name
	./bin/pricemill bench chain
	./bin/pricemill bench rebuild
	./bin/pricemill bench reads
	./bin/pricemill bench api

.PHONY: bench-peers
bench-peers: build ## Measure Kafka Streams next to pricemill, on the same PostgreSQL and Apache Kafka; needs a JDK and Maven
	.ci/peers/run

.PHONY: lint
lint: ## Check format, vet, golangci-lint, English, and the third-party licences and notices; needs a C compiler
	@test -z "$$(gofmt -l cmd pipeline handlers projections httpapi internal schema | tee >(cat >&2))"
	$(GO) vet ./...
	$(GO) vet -tags failpoints ./...
	$(GO) run $(GOLANGCI) run
	.ci/prose/run
	cd .ci/licenses && $(GO) vet . && $(GO) run . -check

.PHONY: completions
completions: build ## Write bin/completions: files for bash, zsh, fish and PowerShell
	@mkdir -p bin/completions
	bin/pricemill completion bash >bin/completions/pricemill.bash
	bin/pricemill completion zsh >bin/completions/_pricemill
	bin/pricemill completion fish >bin/completions/pricemill.fish
	bin/pricemill completion powershell >bin/completions/pricemill.ps1

# goreleaser and what it calls are tools of this checkout, not of the program.
.PHONY: snapshot
snapshot: ## Build what a release holds, into bin/dist, and publish nothing; needs the network
	GOBIN=$(CURDIR)/bin $(GO) install $(CYCLONEDX)
	GOBIN=$(CURDIR)/bin $(GO) install $(GORELEASER)
	PATH="$(CURDIR)/bin:$$PATH" goreleaser release --snapshot --clean

.PHONY: release
release: ## Build the release of the tag at HEAD, and publish it as a draft; needs GITHUB_TOKEN
	GOBIN=$(CURDIR)/bin $(GO) install $(CYCLONEDX)
	GOBIN=$(CURDIR)/bin $(GO) install $(GORELEASER)
	PATH="$(CURDIR)/bin:$$PATH" goreleaser release --clean

.PHONY: test-snapshot
test-snapshot: snapshot ## Hold the release files to docs/install.md, and install the program by go install; needs dpkg and Python
	.ci/snapshot

.PHONY: licenses
licenses: ## Write the third-party notices, cmd/notices.txt; fails where a licence is not allowed
	cd .ci/licenses && $(GO) run .

.PHONY: clean
clean: ## Remove what was built; ./data stays
	rm -rf bin
