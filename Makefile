# Everything one does with this repository. `make help` lists it.
#
# Every recipe runs inside scripts/with-env, so that each build sees the same environment: another
# one would compile llama.cpp a second time.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
WITH := scripts/with-env

.PHONY: help need model build profile run test test-all fmt lint doc unit deny advisories bench-overhead bench-engine bench-ledger bench-soak fuzz standin

help: ## this list
	@awk -F':.*## ' '/^[a-z][a-z-]*:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

need: ## installs what the build lacks (as root from Debian, else from PyPI into .venv)
	@scripts/need.sh

model: ## fetches the default model into models/ (98 MB, once)
	@scripts/model.sh

build: need ## the release binary
	@scripts/release -p gateway

profile: need model ## learns anew which code requests run through (10 to 20 minutes, see scripts/profile.sh)
	@scripts/profile.sh

run: need model build ## builds, starts on 127.0.0.1:8655 and prints a first key
	@$(WITH) bash -c 'exec "$$CARGO_TARGET_DIR/release/tollgate" serve --config tollgate.toml --hello'

test: need model fmt lint doc ## everything that guards the project; ends with the runner's summary
	@$(WITH) scripts/test.sh

test-all: need model fmt lint doc ## test, and what is slow (clients in JavaScript need Node 20)
	@$(WITH) scripts/test.sh --slow

fmt: ## formatting, checked
	@$(WITH) cargo fmt --all --check

lint: need ## clippy, warnings are errors
	@$(WITH) cargo clippy --workspace --all-targets --locked -- -D warnings

doc: need ## rustdoc, warnings are errors
	@RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" $(WITH) cargo doc --workspace --no-deps --document-private-items --locked --quiet

unit: need ## tests inside the crates, without the end-to-end ones
	@$(WITH) cargo test --locked --workspace --lib --bins

deny: ## licences, bans and sources of the dependency tree (compiles cargo-deny if absent)
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	@cargo deny --all-features check --hide-inclusion-graph licenses bans sources

advisories: ## known vulnerabilities of the dependency tree (reads the RustSec database)
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	@cargo deny --all-features check advisories

bench-overhead: need ## what the gateway adds to a request (5 1/2 minutes, an otherwise idle machine)
	@scripts/release -p gateway -p bench --bins
	@$(WITH) bash -c 'exec "$$CARGO_TARGET_DIR/release/bench" overhead'

bench-engine: need model ## what the local engine yields (4 minutes, an otherwise idle machine)
	@scripts/release -p bench --bins
	@$(WITH) bash -c 'exec "$$CARGO_TARGET_DIR/release/bench" engine'

fuzz: need model ## mutated inputs for the local engine's readers of foreign bytes, SECONDS_EACH for each target (600)
	@$(WITH) cargo build --locked -p e2e --bin fuzz
	@$(WITH) bash -c 'exec "$$CARGO_TARGET_DIR/debug/fuzz" --seconds $${SECONDS_EACH:-600}'

bench-soak: need model ## whether the engine holds out: 30 minutes at twice its capacity
	@scripts/release -p bench --bins
	@$(WITH) bash -c 'exec "$$CARGO_TARGET_DIR/release/bench" soak'

bench-ledger: need ## how fast the books are (15 minutes, 8 GB of disk, an otherwise idle machine)
	@scripts/release -p bench --bins
	@$(WITH) bash -c 'exec "$$CARGO_TARGET_DIR/release/bench" ledger'

standin: need ## a stand-in cloud on 127.0.0.1:8656 for trying things by hand
	@$(WITH) cargo run --locked -p e2e --bin standin-cloud -- --listen 127.0.0.1:8656
