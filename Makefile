# make run      builds, starts a pmcd of its own with the plugin and shows live values
# make test     everything that is checked, on this kernel and on those of TEST_KERNELS
# make test-vm  the live tests on emulated machines: KERNELS="6.1 7.3"
# make test-kernels  the same on all kernels; writes docs/kernels.md
# make bench    costs beside the stock plugin, in one table
# make lint     formats, lints
# make install  DESTDIR= PREFIX=/usr

CARGO ?= cargo
DESTDIR ?=
PREFIX ?= /usr
PLUGIN = target/release/libpmda_bpf.so
BPF_SOURCES = $(wildcard bpf/*.c bpf/lib/*.h include/*.h examples/bpf/*.c)
PMDAS = $(DESTDIR)$(shell . /etc/pcp.conf 2>/dev/null; echo $${PCP_PMDAS_DIR:-/var/lib/pcp/pmdas})/bpfrs
PMDASADM = $(DESTDIR)$(shell . /etc/pcp.conf 2>/dev/null; echo $${PCP_PMDASADM_DIR:-$(PREFIX)/lib/pcp/pmdas})/bpfrs
SYSCONF = $(DESTDIR)/etc/pcp/bpfrs

# Tests that compare with the kernel, whichever runs: those for tests/vm. Some only run there.
LIVE = live stacked
TEST_KERNELS = 6.1 7.3
KERNELS = $(TEST_KERNELS)
ALL_KERNELS = $(shell awk '/^[0-9]/ { print $$1 }' tests/vm/kernels)
LOGS = $(or $(CARGO_TARGET_DIR),target)/kernels

.PHONY: all build run test test-catalog test-host test-vm test-kernels bench lint install prerequisites clean

all: build

build:
	$(CARGO) build --release --locked

run: prerequisites
	@scripts/run

# Formats and lints first: they are the quickest to fail.
test: prerequisites lint
	@$(MAKE) test-host
	@$(MAKE) test-vm KERNELS="$(TEST_KERNELS)"

test-host: prerequisites build
	$(CARGO) build --release --locked --examples
	$(CARGO) test --release --locked --no-fail-fast

# One machine after another, each to its end.
test-vm: prerequisites build
	$(CARGO) build --release --locked --examples
	@CARGO="$(CARGO)" tests/vm/all "$(LOGS)" "$(KERNELS)" "$(LIVE)"

test-kernels:
	@$(MAKE) test-vm KERNELS="$(ALL_KERNELS)"; status=$$?; \
	tests/vm/hooks >"$(LOGS)/host.log" && tests/vm/table "$(LOGS)" host $(ALL_KERNELS) >docs/kernels.md && exit $$status

# BLESS=1 rewrites the files that follow from the module tables.
test-catalog:
	$(CARGO) test --release --locked --test catalog

bench: prerequisites build
	$(CARGO) build --release --locked --examples
	$(CARGO) bench --locked

lint:
	$(CARGO) fmt --check
	rustfmt --check src/modules/*.rs examples/testagent/*.rs
	clang-format --dry-run -Werror $(BPF_SOURCES)
	$(CARGO) clippy --release --locked --all-targets $(addprefix --test ,$(LIVE)) -- -D warnings

install: build
	install -d $(PMDAS) $(PMDASADM) $(SYSCONF) $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 755 $(PLUGIN) $(PMDASADM)/pmda_bpf.so
	install -m 644 pmns/root_bpf $(PMDASADM)/root_bpf
	install -m 644 help/help $(PMDASADM)/help
	install -m 644 bpf.conf $(SYSCONF)/bpf.conf
	ln -sf $(patsubst $(DESTDIR)%,%,$(PMDASADM))/pmda_bpf.so $(PMDAS)/pmda_bpf.so
	ln -sf $(patsubst $(DESTDIR)%,%,$(PMDASADM))/root_bpf $(PMDAS)/root_bpf
	ln -sf $(patsubst $(DESTDIR)%,%,$(SYSCONF))/bpf.conf $(PMDAS)/bpf.conf
	install -m 644 man/pmdabpfrs.1 $(DESTDIR)$(PREFIX)/share/man/man1/pmdabpfrs.1

prerequisites:
	@scripts/prerequisites

clean:
	$(CARGO) clean
