# `make` lists the targets. Everything else is ordinary cargo.

.DEFAULT_GOAL := help
SHELL := /bin/bash -o pipefail
.PHONY: help build demo test chaos fuzz lint deny bench clean

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

# The coverage that libFuzzer asks for, from the ordinary compiler; `cargo fuzz` does the same with
# sanitizers on a nightly one.
FUZZ_FLAGS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
	-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
FUZZ_HOST = $(shell rustc -vV | sed -n 's/^host: //p')

fuzz: ## the decoder, the journal and the configuration: SECONDS=60 for each
	@set -e; for target in pgoutput journal configuration; do \
		RUSTFLAGS="$(FUZZ_FLAGS) --cfg fuzzing" cargo run --manifest-path fuzz/Cargo.toml --locked \
			--target $(FUZZ_HOST) --target-dir target/fuzz --bin $$target -- \
			-max_total_time=$(or $(SECONDS),60) -artifact_prefix=fuzz/corpus/$$target/ \
			fuzz/corpus/$$target; \
	done

lint: ## formatting, warnings, the engine without connectors, dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo check --no-default-features --lib --locked
	@scripts/dependencies
	@scripts/dashboard

deny: ## licences, sources and advisories with cargo-deny (cargo install cargo-deny)
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
