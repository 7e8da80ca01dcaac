# `make` alone says what there is.

CARGO ?= cargo
PREFIX ?= /usr/local
BIN := $(or $(CARGO_TARGET_DIR),target)/release

.PHONY: help setup setup-tests build run test check bench loss fuzz install clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: ## installs a C compiler and the OpenSSL headers where they are missing
	@sh tests/setup.sh

setup-tests: # and testssl.sh, strace, haproxy, nginx and python, which some tests run
	@sh tests/setup.sh tests

build: setup ## both programs, optimized
	$(CARGO) build --release --locked --workspace

run: build ## the proxy on 127.0.0.1:8080 before two demo backends, until Ctrl-C
	$(CARGO) build --release --locked --example demo-backend
	@sh tests/demo/run.sh

test: setup-tests ## every test
	$(CARGO) test --locked --workspace

check: setup-tests ## format, lints and every test: what has to pass before a merge
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) test --locked --workspace

bench: setup ## how much, how fast, how large
	$(CARGO) build --release --locked --workspace
	$(CARGO) run --release --locked --example picks
	$(CARGO) run --release --locked --example bench

loss: setup ## counts what is lost while it changes and workers come, go and die: 10 minutes
	$(CARGO) build --release --locked --workspace
	$(CARGO) run --release --locked --example loss

fuzz: setup ## random input for the parsers
	sh tests/fuzz/run.sh

install: build ## into $(DESTDIR)$(PREFIX)/bin
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(BIN)/sozu $(BIN)/sozuctl $(DESTDIR)$(PREFIX)/bin

clean: ## removes what was built
	$(CARGO) clean
