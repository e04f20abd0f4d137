"""The driver, inside the sandbox; bench/run calls it."""
import glob
import os
import subprocess
import sys
import time
from contextlib import ExitStack

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from lib import machine, migration, plan, reads, server, storage, throughput, warm  # noqa: E402
from lib.contender import BENCH, Contender, create_all, discover  # noqa: E402
from lib.redis import TITLES, Redis  # noqa: E402
from lib.results import Results  # noqa: E402

OUT = os.environ["BENCH_OUT"]
TMP = os.environ["TMPDIR"]


def build(what):
    """A library of ours, outside the tree: TMPDIR/WHAT/WHAT.so."""
    directory = os.path.join(TMP, what)
    os.mkdir(directory)
    subprocess.run(["make", "-s", "-C", directory, "-f", os.path.join(BENCH, what, "Makefile"),
                    "PG_CONFIG=" + os.environ["BENCH_PG_CONFIG"], what + ".so"], check=True)


def restart(contenders, environment):
    for contender in contenders:
        contender.disconnect()
    server.restart(environment)


def measure(what, contenders, results):
    databases = [c for c in contenders if not isinstance(c, Redis)]
    if what.runs or what.warm or what.storage_counts:
        create_all(databases, what.prompts)
        results.say(f"{len(databases)} databases with {what.prompts:,} prompts each")

    for runs in what.runs:
        if not runs.slow_us:
            throughput.measure(what, runs, contenders, results)
    for section in what.warm:
        warm.measure(what, section, contenders, results)
    if what.storage_counts:
        for contender in storage.able(databases):
            storage.measure(what.storage_counts, contender, what.prompts, results)
    # After everything whose WAL is measured: a restart makes a checkpoint.
    for runs in what.runs:
        if runs.slow_us:
            restart(databases, {"LD_PRELOAD": os.path.join(TMP, "slowsync/slowsync.so"),
                            "SLOWSYNC_US": str(runs.slow_us)})
            throughput.measure(what, runs, contenders, results)
            restart(databases, {})

    for contender in databases:
        contender.drop()
    for size in what.read_sizes:
        reads.measure(size, contenders, results)
    for rows, repeats in what.migrations:
        migration.measure(rows, repeats, results)


def benchmark(what):
    results = Results(os.path.join(OUT, "raw.csv"))
    build("slowsync")
    described = machine.describe()
    with ExitStack() as at_end:
        contenders = discover()
        for policy in TITLES:
            contenders.append(Redis(policy, TMP))
            at_end.callback(contenders[-1].stop)
        with open(os.path.join(OUT, "contenders.csv"), "w") as file:
            file.writelines(f"{c.name},{c.title}\n" for c in contenders)
        print(plan.shown(what, lambda runs: throughput.able(runs, contenders), len(storage.able(contenders))),
              flush=True)
        measure(what, contenders, results)
    with open(os.path.join(OUT, "settings.txt"), "w") as file:
        took = time.time() - int(os.environ["BENCH_BEGAN"])
        file.write(f"took        {took:.0f} s, from the start of bench/run, what it builds included, to this summary\n{described}")
    subprocess.run([os.path.join(BENCH, "report"), OUT], check=True)
    results.say(f"done; the plan was {what.minutes} minutes")


def self_test():
    """Two contenders that miscount and one that doesn't: told apart?"""
    wrong = [Contender(path) for path in sorted(glob.glob(os.path.join(BENCH, "selftest", "*.sql")))]
    right = Contender(os.path.join(BENCH, "contenders", "upsert_plpgsql.sql"))
    results = Results(os.path.join(OUT, "raw.csv"))
    measure(plan.SELF_TEST, wrong + [right], results)
    if results.wrong != {contender.name for contender in wrong}:
        sys.exit("self-test failed: the exactness check is not to be trusted")
    print("self-test passed: who drops or invents one count in a thousand is found out")


def main(kind, sections):
    build("noop")
    if kind == "self-test":
        return self_test()
    what = plan.QUICK if kind == "quick" else plan.FULL
    benchmark(plan.only(what, sections.split(",")) if sections else what)


try:
    main(*sys.argv[1:])
except RuntimeError as error:
    sys.exit(f"bench: {error}")
