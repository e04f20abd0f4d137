"""What is measured, and how many seconds it may take.

A benchmark that takes an hour is not run. So not every workload is run with
every number of clients; the hot prompt is, because that is where the contenders
differ most.
"""
from collections import namedtuple

# Every contender, or those whose names begin so, for so many seconds, so often.
Runs = namedtuple("Runs", "section workload clients seconds repeats who sync snapshot slow_us",
                  defaults=["", "on", False, 0])
# Async beside the no-op: {clients: seconds until they are warm}, and how many turns each has.
Warm = namedtuple("Warm", "workload clients turns")
# Legacy rows, and how often they are moved each way, in "migrations".
Plan = namedtuple("Plan", "minutes prompts runs warm storage_counts read_sizes migrations")

OURS = ("prompt_stats", "upsert_plpgsql")
# The SQL upsert and the bare UPDATE wait for a row as the PL/pgSQL upsert does.
DIFFERENT = ("noop", "prompt_stats", "upsert_plpgsql", "slots", "deltas", "events", "redis")
WAITING = ("prompt_stats_group", "prompt_stats_transaction", "upsert_plpgsql")

FULL = Plan(
    minutes=15,
    prompts=1_000_000,
    runs=[
        Runs("hot", "hot", (1, 4, 16), 1, 2),
        Runs("hot", "hot", (64,), 2, 2, who=DIFFERENT),
        Runs("zipf", "zipf", (16,), 1, 1),
        Runs("zipf", "zipf", (1,), 1, 1, who=WAITING),
        Runs("zipf", "zipf", (64,), 2, 1, who=WAITING),
        Runs("uniform", "uniform", (16,), 1, 1),
        Runs("uniform", "uniform", (1,), 1, 1, who=WAITING),
        Runs("uniform", "uniform", (64,), 2, 1, who=WAITING),
        Runs("sync off", "hot", (16,), 1, 1, who=DIFFERENT, sync="off"),
        Runs("snapshot held", "hot", (16,), 1, 1, who=DIFFERENT, snapshot=True),
        Runs("snapshot held", "hot", (64,), 5, 1, who="prompt_stats_group", snapshot=True),
        Runs("PostgREST", "postgrest", (16,), 1, 1, who=DIFFERENT),
        Runs("list of 100", "list", (1,), 1, 1, who=OURS),
        Runs("slow disk 1 ms", "hot", (16, 64), 1, 1, who=WAITING, slow_us=1000),
        Runs("slow disk 5 ms", "hot", (16, 64), 1, 1, who=WAITING, slow_us=5000),
    ],
    warm=[Warm(workload, {1: 1, 16: 2, 64: 3}, 2) for workload in ("hot", "zipf", "uniform")],
    storage_counts=1_000_000,
    read_sizes=(1_000, 100_000, 10_000_000),
    migrations=((100_000, 2), (1_000_000, 1), (5_000_000, 1)),
)

QUICK = Plan(
    minutes=2,
    prompts=50_000,
    runs=[
        Runs("hot", "hot", (1, 16), 1, 1),
        Runs("zipf", "zipf", (16,), 1, 1),
        Runs("PostgREST", "postgrest", (16,), 1, 1),
    ],
    warm=[Warm("hot", {16: 1}, 2)],
    storage_counts=20_000,
    read_sizes=(1_000, 100_000),
    migrations=((100_000, 1),),
)

SELF_TEST = Plan(
    minutes=1,
    prompts=1_000,
    runs=[Runs("hot", "hot", (4,), 1, 1, sync="off")],
    warm=[],
    storage_counts=0,
    read_sizes=(),
    migrations=(),
)


def only(plan, sections):
    """The plan, cut down to these sections."""
    return plan._replace(
        runs=[runs for runs in plan.runs if runs.section in sections],
        warm=plan.warm * ("warm" in sections),
        storage_counts=plan.storage_counts * ("storage" in sections),
        read_sizes=plan.read_sizes * ("reads" in sections),
        migrations=plan.migrations * ("migration" in sections))


# What they take on two idle cores, in seconds: a prompt in all databases; connecting and
# adding up, a run; a restart of the server; a count in the loop of lib/storage.py; a prompt
# of lib/reads.py, built and read by all; a legacy row, made, and copied and moved each way.
PROMPT, AROUND_A_RUN, RESTART = 40e-6, 0.35, 2
LOOPED_COUNT, READ_PROMPT, LEGACY_ROW, MOVED_ROW = 20e-6, 18e-6, 5e-6, 8e-6


def estimate(plan, chosen, stored):
    """[(section, sizes, how, seconds)]; chosen(runs) are the contenders of a section,
    stored how many of them lib/storage.py is about."""
    yield "databases", [plan.prompts], "", plan.prompts * PROMPT
    for runs in plan.runs:
        seconds = len(runs.clients) * runs.repeats * len(chosen(runs)) * (runs.seconds + AROUND_A_RUN)
        yield (runs.section, runs.clients, f"{runs.seconds} s x {runs.repeats}",
               seconds + 2 * RESTART * bool(runs.slow_us))
    for warm in plan.warm:
        yield (f"warm {warm.workload}", list(warm.clients), f"{warm.turns} turns",
               sum(2 * (AROUND_A_RUN + seconds + 1.5 * warm.turns) for seconds in warm.clients.values()))
    yield "storage", [plan.storage_counts], "", plan.storage_counts * LOOPED_COUNT * stored
    yield "reads", plan.read_sizes, "", sum(plan.read_sizes) * READ_PROMPT
    yield ("migration", [rows for rows, _ in plan.migrations], "",
           sum(rows * (LEGACY_ROW + MOVED_ROW * repeats) for rows, repeats in plan.migrations))


def shown(plan, chosen, stored):
    """The plan as a table."""
    rows = list(estimate(plan, chosen, stored))
    lines = [f"{section:16} {', '.join(f'{size:,}' for size in sizes):30} {how:8} {seconds:4.0f} s"
             for section, sizes, how, seconds in rows]
    total = sum(seconds for *_, seconds in rows)
    return "\n".join(["The plan: clients or sizes, a run and its repeats, seconds for all contenders:", *lines,
                      f"about {total / 60:.1f} minutes; at most {plan.minutes}"])
