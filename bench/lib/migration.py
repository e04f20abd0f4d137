"""Moving the legacy rows: how long, and how long a client waits meanwhile."""
import glob
import os
import threading
import time

from lib import load, server
from lib.contender import BENCH, fill_in, new_database, sections

PROMPTS = 10_000
CLIENTS, RATE = 2, 200                  # clients beside it, counts a second in all

# The first statement fails when it is time to stop, with no count under way:
# so every count that succeeded is in pgbench's figure.
CLIENT = """\\set n random_zipfian(1, {prompts}, 1.001)
SELECT 1 / (NOT EXISTS (SELECT FROM bench_stop))::integer;
SELECT increment_prompt_views(bench_prompt(:n));"""


def ways():
    """(title, parts) of each file but legacy.sql."""
    return [sections(path) for path in sorted(glob.glob(os.path.join(BENCH, "migration", "*.sql")))
            if not path.endswith("legacy.sql")]


def make_legacy(rows):
    """The database that each way gets a copy of."""
    _, parts = sections(os.path.join(BENCH, "migration", "legacy.sql"))
    name = f"legacy_{rows}"
    new_database(name)
    server.psql(name, fill_in(parts["schema"] + parts["fill"], prompts=PROMPTS, rows=rows))
    server.psql(name, "VACUUM ANALYZE")
    return name, parts["total"]


def measure(rows, repeats, results):
    legacy, total = make_legacy(rows)
    for repeat in range(1, repeats + 1):
        for title, parts in ways():
            server.psql("postgres", f"CREATE DATABASE migrated TEMPLATE {legacy} STRATEGY file_copy")
            results.add("migration", title, rows, repeat, migrate(parts, total))
            server.psql("postgres", "DROP DATABASE migrated WITH (FORCE)")
    server.psql("postgres", f"DROP DATABASE {legacy}")


def migrate(parts, total):
    server.psql("migrated", parts["prepare"])
    before = int(server.psql("migrated", total))
    told = {}
    clients = threading.Thread(target=lambda: told.update(count_beside()))
    clients.start()
    time.sleep(0.5)
    begin = time.monotonic()
    try:
        server.psql("migrated", parts["migrate"])
        seconds = time.monotonic() - begin
    finally:
        server.psql("migrated", "INSERT INTO bench_stop DEFAULT VALUES")
        clients.join()
    after = int(server.psql("migrated", total))
    waits = told["latencies"]
    return {"seconds": seconds, "longest_wait_ms": waits[-1], "p50_ms": load.percentile(waits, 0.5),
            "processed": told["processed"], "failed": 0, "off": after - before - told["processed"]}


def count_beside():
    return load.pgbench("migrated", fill_in(CLIENT, prompts=PROMPTS), CLIENTS,
                        ["-T", "3600", "-R", str(RATE)], sampled=1, until_error=True)
