# `make` lists the targets. Everything else is ordinary cargo.

.DEFAULT_GOAL := help
SHELL := /bin/bash -o pipefail
.PHONY: help build demo test chaos lint deny bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the program: target/release/cutover
	@cargo build --release --locked

demo: ## watch a database under load move to another server and back
	@scripts/setup demo
	@cargo build --release --locked
	@cargo run --quiet --release --locked -- demo $(ARGS)

test: ## get what the tests need and run all of them
	@scripts/setup test
	cargo test --workspace --locked --no-fail-fast

# What a campaign is told; empty when not given.
export SEED RUNS ONLY SECONDS LANES

chaos: ## kill, cut, fill, freeze: SEED=7 RUNS=500, or SEED=7 ONLY=123 (docs/CHAOS.md)
	@scripts/setup test
	cargo test --locked --test chaos campaign -- --nocapture

lint: ## formatting, warnings, the engine without connectors, dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo check --no-default-features --lib --locked
	@scripts/dependencies
	@scripts/dashboard

deny: ##, sources and advisories with cargo-deny (cargo install cargo-deny)
	@cargo deny --version >/dev/null 2>&1 || \
		{ echo "cargo-deny is missing: run  cargo install --locked cargo-deny" >&2; exit 1; }
	cargo deny --locked check

bench: ## measure against raw COPY, pgcopydb and native subscriptions
	@scripts/setup bench
	@cargo build --release --locked
	@set -e; for script in scripts/bench/*; do \
		if [ -f "$$script" ] && [ -x "$$script" ]; then echo "== $$script"; "$$script" $(ARGS); fi; \
	done

clean: ## remove what was built; the cache of servers stays
	@cargo clean
