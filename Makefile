# make run      builds, starts a pmcd of its own with the plugin and shows live values
# make test     everything that is checked, on this kernel and on those of TEST_KERNELS
# make test-vm  the live tests on emulated machines: KERNELS="6.1 7.3"
# make test-kernels  the same on all kernels; writes docs/kernels.md
# make bench    costs beside the stock plugin, in one table
# make lint     formats, lints
# make install  DESTDIR= PREFIX=/usr; then, as root, ./Install in $PCP_PMDAS_DIR/bpfrs
# make test-install    Install, Remove, a rebuilt name space, under Debian's own pmcd in a chroot
# make test-consumers  PCP's own tools that know these metrics, of Debian 12 and 13

CARGO ?= cargo
DESTDIR ?=
PREFIX ?= /usr
RELEASE = $(or $(CARGO_TARGET_DIR),target)/release
BPF_SOURCES = $(wildcard bpf/*.c bpf/lib/*.h include/*.h examples/bpf/*.c)
pcp_conf = $(DESTDIR)$(or $(shell . /etc/pcp.conf 2>/dev/null; echo $$$(1)),$(2))
PMDAS = $(call pcp_conf,PCP_PMDAS_DIR,/var/lib/pcp/pmdas)/bpfrs
PMDASADM = $(call pcp_conf,PCP_PMDASADM_DIR,$(PREFIX)/lib/pcp/pmdas)/bpfrs
SYSCONF = $(call pcp_conf,PCP_SYSCONF_DIR,/etc/pcp)
DERIVED = $(call pcp_conf,PCP_VAR_DIR,/var/lib/pcp)/config/derived
# As the installed system will see it.
there = $(patsubst $(DESTDIR)%,%,$(1))

# Tests that compare with the kernel, whichever runs: those for tests/vm. Some only run there.
LIVE = live events network workers stacked
TEST_KERNELS = 6.1 7.3
KERNELS = $(TEST_KERNELS)
ALL_KERNELS = $(shell awk '/^[0-9]/ { print $$1 }' tests/vm/kernels)
LOGS = $(or $(CARGO_TARGET_DIR),target)/kernels

.PHONY: all build run test test-catalog test-host test-vm test-kernels test-install test-consumers bench lint install prerequisites clean

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
	$(CARGO) test --profile verify --locked --no-fail-fast

# One machine after another, each to its end.
test-vm: prerequisites build
	$(CARGO) build --release --locked --examples
	@CARGO="$(CARGO)" tests/vm/all "$(LOGS)" "$(KERNELS)" "$(LIVE)"

test-kernels:
	@$(MAKE) test-vm KERNELS="$(ALL_KERNELS)"; status=$$?; \
	tests/vm/hooks >"$(LOGS)/host.log" && tests/vm/table "$(LOGS)" host $(ALL_KERNELS) >docs/kernels.md && exit $$status

# BLESS=1 rewrites the files that follow from the module tables.
test-catalog:
	$(CARGO) test --profile verify --locked --test catalog

test-install: prerequisites build
	tests/install/run bookworm install

test-consumers: prerequisites build
	tests/install/run bookworm consumers
	tests/install/run trixie consumers

bench: prerequisites build
	$(CARGO) build --release --locked --examples
	$(CARGO) bench --locked

lint:
	$(CARGO) fmt --check
	rustfmt --check src/modules/*.rs examples/testagent/*.rs
	clang-format --dry-run -Werror $(BPF_SOURCES)
	$(CARGO) clippy --profile verify --locked --all-targets $(addprefix --test ,$(LIVE)) -- -D warnings

# An existing bpf.conf is its owner's.
install: build
	install -d $(PMDAS) $(PMDASADM) $(SYSCONF)/bpfrs $(SYSCONF)/derived $(DERIVED) $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 755 $(RELEASE)/libpmda_bpf.so $(PMDASADM)/pmda_bpf.so
	if [ -x $(RELEASE)/pmdabpf ]; then install -m 755 $(RELEASE)/pmdabpf $(PMDASADM)/pmdabpf; fi
	install -m 755 Install Remove Upgrade $(PMDASADM)
	install -m 644 domain.h pmns/root_bpf help/help $(PMDASADM)
	for file in pmda_bpf.so pmdabpf Install Remove Upgrade domain.h root_bpf; do \
		[ ! -e $(PMDASADM)/$$file ] || ln -sf $(call there,$(PMDASADM))/$$file $(PMDAS)/$$file; \
	done
	[ -e $(SYSCONF)/bpfrs/bpf.conf ] || install -m 644 bpf.conf $(SYSCONF)/bpfrs/bpf.conf
	ln -sf $(call there,$(SYSCONF))/bpfrs/bpf.conf $(PMDAS)/bpf.conf
	install -m 644 derived/bpfrs.conf $(SYSCONF)/derived/bpfrs.conf
	ln -sf $(call there,$(SYSCONF))/derived/bpfrs.conf $(DERIVED)/bpfrs.conf
	install -m 644 man/pmdabpfrs.1 $(DESTDIR)$(PREFIX)/share/man/man1/pmdabpfrs.1

prerequisites:
	@scripts/prerequisites

clean:
	$(CARGO) clean
