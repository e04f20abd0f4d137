"""Counts a second, their latency, their WAL and CPU, and whether they all arrived."""
from contextlib import nullcontext

from lib import load, server, storage
from lib.contender import Workload
from lib.redis import Redis


def able(runs, contenders):
    """Those whom the section is about. Redis has no snapshots, transactions or
    synchronous_commit, and its benchmark draws no Zipf numbers."""
    return [c for c in contenders
            if c.name.startswith(runs.who)
            and (runs.section in ("hot", "uniform") or not isinstance(c, Redis))]


def measure(plan, runs, contenders, results):
    """One section. Contenders alternate, so that all of them see the same noise."""
    workload = Workload(runs.workload)
    for clients in runs.clients:
        for repeat in range(1, runs.repeats + 1):
            for contender in able(runs, contenders):
                if isinstance(contender, Redis):
                    prompts = plan.prompts if runs.workload == "uniform" else None
                    found = contender.run(clients, runs.seconds, prompts)
                else:
                    found = run(contender, workload, plan.prompts, clients, runs)
                results.add(runs.section, contender.name, clients, repeat, found)


def run(contender, workload, prompts, clients, runs):
    cpu = server.Cpu()
    before = contender.total()
    died = storage.dead_rows(contender.database) if runs.snapshot else 0
    report = server.holding_snapshot(contender.database) if runs.snapshot else nullcontext()
    with report:
        with contender.at_work():
            wal, spent = server.wal_position(contender.database), cpu.read()
            found = load.pgbench(contender.database, workload.script(contender, prompts), clients,
                                 ["-T", str(runs.seconds)],
                                 {"synchronous_commit": runs.sync, **contender.settings})
            backends, background = cpu.since(spent)
        contender.settle()
        wal = server.wal_position(contender.database) - wal
        if runs.snapshot:
            died = storage.dead_rows(contender.database) - died
    after = contender.total()

    counts = found["processed"] * workload.counts
    latencies = found.pop("latencies")
    found["per_second"] *= workload.counts
    found["wal_bytes_a_count"] = wal / counts
    if runs.snapshot:
        found["dead_rows_a_count"] = died / counts
    found["backend_us_a_count"] = backends / counts * 1e6
    found["background_us_a_count"] = background / counts * 1e6
    for share in 50, 95, 99:
        found[f"p{share}_ms"] = load.percentile(latencies, share / 100)
    if after is not None:
        # In the tables, less what the clients were told.
        found["off"] = after - before - counts
    return found
