# `make` alone lists what there is.
.PHONY: help run test test-trixie check-alerts record-forms bench bench-trixie check-deploy check-image image k8s docs-settings docs-metrics \
	fmt lint
.DEFAULT_GOAL := help

TARGET := $(or $(CARGO_TARGET_DIR),target)
ENGINE := docker
IMAGE := fanfare:0.1.0
# Stories wait more than they compute.
export RUST_TEST_THREADS ?= $(shell expr 2 \* $$(nproc))

help: ## list these targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

run: ## Fanfare on this machine with a sample receiver; CATALOG=standard, SPEED=600, PORT_BASE=50000
	@FANFARE_INSTALL=run deploy/local/install
	@cargo build --release --package fanfare-local
	@$(TARGET)/release/fanfare-run

test: ## unit tests, property tests, and the whole system as a black box
	@deploy/local/install
	@tests/languages/install
	cargo build --workspace --all-targets
	cargo test --workspace
	@$(MAKE) --no-print-directory check-alerts

test-trixie: ## the main path on Debian 13's RabbitMQ 4.0 with Redis 8.0, then Valkey 8.1 (as root)
	@deploy/local/trixie
	cargo build --workspace --all-targets
	FANFARE_TEST_ROOT=/var/cache/fanfare-trixie cargo test -p fanfare-tests --test system -- delivery:: retries:: waits:: failover::
	FANFARE_TEST_ROOT=/var/cache/fanfare-trixie FANFARE_TEST_REDIS=valkey-server cargo test -p fanfare-tests --test system -- delivery::

check-alerts: ## alerts fire and stay quiet where they should; dashboards are what their generator makes
	deploy/alerts/check
	deploy/dashboards/make --check

record-forms: ## at a release: what it stores and sends, for tests/stored-forms
	@deploy/local/install
	cargo build --workspace --all-targets
	FANFARE_RECORD_FORMS=1 cargo test --workspace --test system -- stored_forms::

bench: ## throughput, latency and cost of what the image has, beside the floor (a first build takes a quarter of an hour)
	@FANFARE_INSTALL=run deploy/local/install
	cargo build --profile dist --workspace --bins
	$(TARGET)/dist/fanfare-bench

bench-trixie: ## the same over Debian 13's RabbitMQ 4.0 and Redis 8.0, nearer to what deploy/compose has (as root)
	@deploy/local/trixie
	cargo build --profile dist --workspace --bins
	FANFARE_TEST_ROOT=/var/cache/fanfare-trixie $(TARGET)/dist/fanfare-bench

check-deploy: ## the chart, k8s/, the image's last stage, the compose file and the guide, without a cluster
	cargo build --workspace --bins
	@deploy/check
	@deploy/image/check
	@deploy/compose/check

check-image: ## the whole Dockerfile over stand-ins for its bases, and the compose file with it (a release build; as root)
	@deploy/check dockerfile
	@deploy/image/check whole
	@deploy/compose/check whole

image: ## the image, as IMAGE=fanfare:0.1.0, by ENGINE=docker (or podman, buildah)
	DOCKER_BUILDKIT=1 $(ENGINE) build --file deploy/image/Dockerfile --tag $(IMAGE) \
	  --build-arg FANFARE_REVISION=$$(git rev-parse --short HEAD) .

k8s: ## write k8s/ anew from the chart, and the chart's copies of rules and dashboards
	@deploy/check k8s

docs-settings: ## write docs/settings.md anew from --help
	cargo build --workspace --bins
	@deploy/check settings

docs-metrics: ## write docs/metrics.md anew from what running services show
	@deploy/local/install
	cargo build --workspace --all-targets
	UPDATE_SNAPSHOTS=1 cargo test --workspace --test system -- metrics::the_guides_page

fmt: ## format
	cargo fmt --all

lint: ## format and lints as .ci/run wants them
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
