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


class Held:
    """A snapshot that somebody left open, and what dies meanwhile: `with Held(contender) as held:`"""

    def __init__(self, contender):
        contender.run("VACUUM")         # what was dead before would go meanwhile
        self.contender = contender
        self.dead, self.folds = self.read()
        self.session = server.holding_snapshot(contender.database)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.session.__exit__()

    def read(self):
        return storage.dead_rows(self.contender.database), self.contender.folds()

    def figures(self, counts):
        dead, folds = (now - then for now, then in zip(self.read(), (self.dead, self.folds)))
        return {"dead_rows": dead, "dead_rows_a_count": dead / counts, "folds": folds or None}


def run(contender, workload, prompts, clients, runs):
    length = load.duration(contender.database, clients, runs.seconds)
    before = contender.total()
    with Held(contender) if runs.snapshot else nullcontext() as held:
        wal = contender.wal_position()
        with contender.at_work(), server.Cpu(clients) as cpu:
            found = load.pgbench(contender.database, workload.script(contender, prompts), clients, length,
                                 {"synchronous_commit": runs.sync, **contender.settings})
        wal_after, after = contender.settled()
        counts = found["processed"] * workload.counts
        if held:
            found.update(held.figures(counts))

    latencies = found.pop("latencies")
    found["per_second"] *= workload.counts
    found["wal_bytes_a_count"] = (wal_after - wal) / counts
    for who, used in zip(("backend", "background"), cpu.a_second()):
        found[who + "_us_a_count"] = used and used / found["per_second"] * 1e6
    for share in 50, 95, 99:
        found[f"p{share}_ms"] = load.percentile(latencies, share / 100)
    if after is not None:
        # In the tables, less what the clients were told.
        found["off"] = after - before - counts
    return found
