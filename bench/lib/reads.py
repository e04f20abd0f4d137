"""What it costs to read one count, and the top 20."""
from lib import load
from lib.contender import create_all, fill_in
from lib.redis import Redis

# Prompts are read as they are viewed: the popular ones often.
DRAW = "\\set n random_zipfian(1, {prompts}, 1.001)\n"


def able(contenders):
    """One of each shape of table; whatever counts into it reads the same."""
    seen = []
    for c in contenders:
        reads = isinstance(c, Redis) or any(part.startswith("read ") for part in c.parts)
        if reads and c.base not in [s.base for s in seen]:
            seen.append(c)
    return seen


def measure(size, contenders, results):
    readers = able(contenders)
    create_all(readers, size, logged=False)
    for contender in readers:
        if isinstance(contender, Redis):
            measure_redis(size, contender, results)
        else:
            measure_one(size, contender, results)


def measure_redis(size, contender, results):
    line = contender.benchmark(1, 5000, size, "GET")
    report(results, contender, "one count", size, line["p50_latency_ms"], line["p99_latency_ms"])


def measure_one(size, contender, results):
    contender.run(fill_in(contender.parts.get("prepare reads", ""), prompts=size))
    for part, sql in contender.parts.items():
        if part.startswith("read "):
            what = part.removeprefix("read ")
            script = fill_in(DRAW * ("{id}" in sql) + sql, id="bench_prompt(:n)", prompts=size)
            ordered = latencies(contender.database, script, 2000 if "{id}" in sql else 5)
            report(results, contender, what, size, load.percentile(ordered, 0.5), load.percentile(ordered, 0.99))
    contender.drop()


def latencies(database, script, calls):
    """Of so many calls; of the first one only, if it takes a second or more."""
    first = load.pgbench(database, script, 1, ["-t", "1"], sampled=1)["latencies"]
    if first[0] >= 1000:
        return first
    return load.pgbench(database, script, 1, ["-t", str(calls)], sampled=1)["latencies"]


def report(results, contender, what, size, p50, p99):
    results.add("read " + what, contender.name, size, 1, {"p50_ms": p50, "p99_ms": p99})
