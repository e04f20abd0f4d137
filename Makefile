# prompt_stats: make, make install, make installcheck, as with any extension.
# "make check" and the other goals of CONTRIBUTING.md bring their own server.

EXTENSION = prompt_stats
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" prompt_stats.control)

OWN_GOALS = asan bench bench-quick check demo dist format lint prove

ifneq ($(filter $(OWN_GOALS),$(MAKECMDGOALS)),)

# These goals install what is missing, PGXS included, so they cannot include
# it (it also has a "check" of its own).  Variables of the command line reach
# the scripts in the environment, but no make below them: DATA means something
# else there.
MAKEOVERRIDES =
.PHONY: $(MAKECMDGOALS)
.NOTPARALLEL:

# With the sample data, where it lies beside the tree
check:
	@DATA="$${DATA-$$(ls -d ../shared/data 2>/dev/null)}" scripts/sandbox.sh scripts/check.sh

prove:
	@SUITES=tap scripts/sandbox.sh scripts/check.sh

asan:
	@COPT="-O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer" \
		scripts/sandbox.sh scripts/asan.sh

lint:
	@scripts/deps.sh lint
	@scripts/sandbox.sh scripts/lint.sh

format:
	@scripts/deps.sh lint
	@scripts/format.sh

demo:
	@scripts/sandbox.sh scripts/demo.sh

bench:
	@scripts/deps.sh bench
	@bench/run

bench-quick:
	@scripts/deps.sh bench
	@bench/run --quick

dist:
	git archive --prefix=$(EXTENSION)-$(EXTVERSION)/ -o $(EXTENSION)-$(EXTVERSION).zip HEAD

# "make clean check": the others still go to PGXS
$(filter-out $(OWN_GOALS),$(MAKECMDGOALS)):
	@$(MAKE) $@

else

MODULE_big = prompt_stats
OBJS = \
	src/prompt_stats.o \
	src/guc.o \
	src/choice.o \
	src/tables.o \
	src/run.o \
	src/plans.o \
	src/refuse.o \
	src/extension.o \
	src/ids.o \
	src/deltas.o \
	src/owner.o \
	src/hints.o \
	src/direct.o \
	src/statements.o \
	src/unwritten.o \
	src/fold.o \
	src/functions.o \
	src/correct.o \
	src/events.o \
	src/read.o \
	src/attempt.o \
	src/merge.o \
	src/missing.o \
	src/progress.o \
	src/migrate.o \
	src/migrate_run.o \
	src/recount.o \
	src/report.o \
	src/checks.o \
	src/setup.o \
	src/reroute.o \
	src/preflight.o \
	src/rights.o \
	src/verify.o \
	src/tally.o \
	src/shmem.o \
	src/pending.o \
	src/group.o \
	src/xact.o \
	src/portal.o \
	src/hooks.o \
	src/worker.o \
	src/serve.o \
	src/flush.o \
	src/status.o
PG_CPPFLAGS = -DPROMPT_STATS_VERSION='"$(EXTVERSION)"'
PGFILEDESC = "prompt_stats - counts views, copies and forks of prompts"

DATA = $(wildcard sql/prompt_stats--*.sql)

REGRESS = \
	setup \
	counting \
	errors \
	arguments \
	correct \
	transactions \
	durability \
	privileges \
	written \
	plans \
	adopt \
	migrate \
	migrate_owners \
	hardening \
	direct \
	preflight \
	rights \
	ids_compare \
	savepoints \
	rows_that_vanish \
	pages_stay \
	scope \
	rules_and_triggers \
	created_tables
ISOLATION = \
	count_one_row \
	turns \
	count_arrays \
	array_insert_race \
	insert_race \
	read_replaced \
	other_keys \
	dropped \
	direct_isolation \
	group_and_locks \
	migrate_batches \
	track_and_recount \
	setup_locks \
	touch \
	correct_rows \
	lock_order \
	repeatable_read \
	schema_renamed

# Tests lie in test/, since sql/ holds the install scripts; expected/ lies here,
# where pg_regress looks by itself.  Its isolation twin looks in output_iso/.
REGRESS_OPTS = --inputdir=test
ISOLATION_OPTS = --inputdir=test --outputdir=.

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
ifeq ($(wildcard $(PGXS)),)
$(error PostgreSQL's server headers are missing: install postgresql-server-dev-15 or later, or set PG_CONFIG)
endif
include $(PGXS)

ifneq ($(filter 9.% 10 11 12 13 14,$(MAJORVERSION)),)
$(error prompt_stats needs PostgreSQL 15 or later, $(PG_CONFIG) is of $(VERSION))
endif

# PGXS does not know which headers an object needs
$(OBJS) $(OBJS:.o=.bc): $(wildcard src/*.h)

# What a script asks: "make print-REGRESS"
print-%:
	@echo $($*)

endif
