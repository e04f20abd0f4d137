"""Contenders and workloads: SQL files in sections, `--@ name` begins one."""
import os
import re
from contextlib import nullcontext
from multiprocessing.pool import ThreadPool

from lib import server

NAMES = ["noop", "prompt_stats", "upsert_plpgsql", "upsert_sql", "update", "slots", "deltas", "events"]

NOOP = os.path.join(os.environ["TMPDIR"], "noop", "noop.so")
BENCH = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def fill_in(text, **values):
    """{name} becomes its value; other braces are the text's own."""
    for name, value in values.items():
        text = text.replace("{" + name + "}", str(value))
    return text


def sections(path):
    """The first line's title, and {section: text}."""
    with open(path) as file:
        head, *rest = re.split(r"^--@ (.*)\n", file.read(), flags=re.MULTILINE)
    title = head.splitlines()[0].removeprefix("-- ")
    return title, {name: text.strip() for name, text in zip(rest[::2], rest[1::2])}


class Workload:
    def __init__(self, name):
        self.name = name
        self.title, self.parts = sections(os.path.join(BENCH, "workloads", name + ".sql"))
        # The sum must grow by this much a transaction.
        self.counts = 100 if "ids" in self.parts else 1

    def script(self, contender, prompts):
        """The pgbench script; None where the contender has no such call."""
        call = contender.parts.get("array" if "ids" in self.parts else "call")
        if call is None:
            return None
        return fill_in(self.parts["script"], call=call, array=call, id=self.parts.get("id"),
                       ids=self.parts.get("ids"), hot=Contender.hot, prompts=prompts)


# Readers don't notice, and ten million rows are there sooner.
UNLOG = """
SELECT format('ALTER TABLE %s SET UNLOGGED', oid::regclass)
FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace \\gexec"""


class Contender:
    """One way to count, in a database of its own."""
    hot = None                          # id of the first prompt

    def __init__(self, path, mode=None):
        self.name = self.base = os.path.basename(path).removesuffix(".sql")
        self.title, self.parts = sections(path)
        self.settings = {}
        self.session = self.sum = None
        if mode:
            self.name += "_" + mode
            self.title += f" ({mode})"
            self.settings = {"prompt_stats.durability": mode}
        self.database = self.name

    def create(self, prompts, logged):
        """A fresh database with so many prompts in it."""
        new_database(self.database)
        Contender.hot = self.run("SELECT bench_prompt(1)")
        self.run(self.parts.get("schema", ""))
        if not logged:
            self.run(UNLOG)
        for part in "fill", "keys":
            self.run(fill_in(self.parts.get(part, ""), prompts=prompts))
        self.run("VACUUM ANALYZE")

    def disconnect(self):
        """Before the server is restarted, or the database dropped."""
        if self.session:
            self.session.close()
        self.session = None

    def drop(self):
        self.disconnect()
        server.psql("postgres", f"DROP DATABASE IF EXISTS {self.database}")

    def run(self, sql):
        self.session = self.session or server.Psql(self.database, self.settings)
        return self.session.run(sql)

    def wal_position(self):
        return int(self.run(server.WAL_POSITION))

    def at_work(self):
        """Its job that runs beside the clients, if it has one, as a context."""
        job = self.parts.get("each second")
        return server.each_second(self.database, job) if job else nullcontext()

    def settle(self):
        """Whatever it still owes to its tables is done now."""
        if "settle" in self.parts:
            self.run(self.parts["settle"])

    def settled(self):
        """WAL position and sum of all counts, once whatever it still owes to its tables is done;
        no sum of one that does not count."""
        parts = [self.parts.get("settle", ""), server.WAL_POSITION, self.parts.get("total", "")]
        wal, *total = self.run("\n".join(parts)).split()
        self.sum = int(total[0]) if total else None
        return int(wal), self.sum

    def total(self):
        """The sum of all counts; nobody counts between the runs."""
        return self.settled()[1] if self.sum is None else self.sum

    def folds(self):
        """How often it has written counts to its tables; 0 where it does not tell."""
        return int(self.run(self.parts["folds"])) if "folds" in self.parts else 0


def new_database(name):
    """With what every one has."""
    server.psql("postgres", f"CREATE DATABASE {name}")
    with open(os.path.join(BENCH, "lib", "common.sql")) as file:
        server.psql(name, fill_in(file.read(), library=NOOP))


def create_all(contenders, prompts, logged=True):
    """All their databases, two at a time."""
    with ThreadPool(2) as pool:
        pool.map(lambda contender: contender.create(prompts, logged), contenders, chunksize=1)


def modes():
    """The durability modes that the extension has; [None] while there is no choice."""
    values = server.psql("bench_modes", """
        CREATE EXTENSION prompt_stats;
        LOAD 'prompt_stats';
        SELECT unnest(enumvals) FROM pg_settings WHERE name = 'prompt_stats.durability'""")
    return values.split() or [None]


def discover():
    """Every contender, ours once for each of its modes, next to the yardstick."""
    server.psql("postgres", "CREATE DATABASE bench_modes")
    found = []
    for name in NAMES:
        path = os.path.join(BENCH, "contenders", name + ".sql")
        found += [Contender(path, mode) for mode in (modes() if name == "prompt_stats" else [None])]
    server.psql("postgres", "DROP DATABASE bench_modes")
    return found
