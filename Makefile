# `make` alone lists what there is.
.PHONY: help run test bench fmt lint
.DEFAULT_GOAL := help

TARGET := $(or $(CARGO_TARGET_DIR),target)

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 8

run: ## Fanfare on this machine with a sample receiver; CATALOG=standard, PORT_BASE=50000
	@deploy/local/install
	@cargo build --release --package fanfare-local
	@$(TARGET)/release/fanfare-run

test: ## unit tests, property tests, and the whole system as a black box
	@deploy/local/install
	cargo build --workspace --bins
	cargo test --workspace

bench: ## throughput, latency and cost, beside the floor
	@deploy/local/install
	cargo build --release --workspace --bins
	$(TARGET)/release/fanfare-bench

fmt: ## format
	cargo fmt --all

lint: ## format and lints as .ci/run wants them
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
