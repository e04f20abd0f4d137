"""The PostgreSQL side: SQL, sessions, CPU time.

scripts/sandbox.sh and cluster.sh made the cluster: PGHOST and PGDATA say where it
is, PATH begins with its programs.
"""
import os
import subprocess
import threading
import time

# Seconds: between two looks at the CPU time, until clients have settled, and the least to go by
CPU_LOOK, CPU_SETTLE, CPU_LEAST = 0.1, 0.3, 0.15


def psql_command(database):
    return ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database]


def environment(settings):
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    return {**os.environ, "PGOPTIONS": options}


def psql(database, sql, settings={}):
    """Runs SQL; what it printed."""
    done = subprocess.run(psql_command(database), input=sql, env=environment(settings),
                          capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"in database {database}: {done.stderr.strip()}\n{sql}")
    return done.stdout.strip()


class Psql:
    """The same in a session that stays: connecting, and reading a large table for the first time,
    take longer than a measurement does."""
    END = "--- end ---"

    def __init__(self, database, settings):
        self.database = database
        self.process = subprocess.Popen(psql_command(database), text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        env=environment({"client_min_messages": "error", **settings}))

    def run(self, sql):
        self.process.stdin.write(f"{sql}\n;\n\\echo {self.END}\n")
        self.process.stdin.flush()
        printed = []
        for line in self.process.stdout:
            if line == self.END + "\n":
                return "".join(printed).strip()
            printed.append(line)
        raise RuntimeError(f"in database {self.database}: {''.join(printed).strip()}\n{sql}")

    def close(self):
        self.process.communicate()


class Session:
    """A psql that stays open beside a measurement, once the SQL has printed a line: `with Session(database, sql):`"""

    def __init__(self, database, sql):
        self.process = subprocess.Popen(psql_command(database), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.process.stdin.write(sql)
        self.process.stdin.flush()
        self.process.stdout.readline()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate()


def holding_snapshot(database):
    """A report that somebody left open: nothing that dies can be cleaned away."""
    return Session(database, "BEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT 'held';\n")


def each_second(database, sql):
    return Session(database, "SELECT 'there';\n" + sql.rstrip().rstrip(";") + " \\watch 1\n")


WAL_POSITION = "SELECT pg_current_wal_insert_lsn() - '0/0';"


def settings_in_force():
    return psql("postgres", """
        SELECT name || ' = ' || current_setting(name) FROM pg_settings
        WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes', 'wal_level', 'wal_sync_method')
            OR name LIKE 'autovacuum%'
            OR source IN ('configuration file', 'command line')
                AND name NOT LIKE 'lc\\_%' AND name <> 'unix_socket_directories'
        ORDER BY name""")


def restart(environment):
    """With something added to the server's environment, for a slower disk."""
    subprocess.run(["pg_ctl", "-s", "-w", "-l", os.path.join(os.environ["PGDATA"], "server.log"), "restart"],
                   env={**os.environ, **environment}, check=True)


def proc(pid, name):
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read()


def children():
    """The server's processes."""
    with open(os.path.join(os.environ["PGDATA"], "postmaster.pid")) as file:
        postmaster = int(file.readline())
    return proc(postmaster, f"task/{postmaster}/children").decode().split()


def cpu_seconds(wanted):
    """{pid: CPU seconds} of the server's processes that are wanted(pid, title)."""
    found = {}
    for pid in children():
        try:
            if wanted(pid, proc(pid, "cmdline")):
                found[pid] = int(proc(pid, "schedstat").split()[0]) / 1e9
        except (FileNotFoundError, ProcessLookupError):
            pass                        # it has just ended
    return found


def client_seconds(database):
    """Of the backends that serve clients there; their titles say so once they are connected."""
    return cpu_seconds(lambda pid, title: f" {database} [local] ".encode() in title)


class Cpu(threading.Thread):
    """What the cluster's processes use in the steady state, while pgbench runs: `with Cpu(clients) as cpu:`

    It looks again and again. From a while after all clients were there, when what a
    backend needs to start and for its first calls is spent, to the last time that they
    all were there still.
    """

    def __init__(self, clients):
        super().__init__(daemon=True)
        self.number = clients
        self.done = threading.Event()
        self.there = set(children())
        self.clients = set()
        self.readings = []              # (when, {pid: seconds} of clients, of others)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join()

    def run(self):
        while not self.done.wait(CPU_LOOK):
            used = cpu_seconds(self.note)
            clients = {pid: seconds for pid, seconds in used.items() if pid in self.clients}
            if len(clients) == self.number:
                others = {pid: seconds for pid, seconds in used.items() if pid not in self.clients}
                self.readings.append((time.monotonic(), clients, others))

    def note(self, pid, title):
        """All are wanted; clients are the backends that came after us."""
        if pid not in self.there and b" [local] " in title:
            self.clients.add(pid)
        return True

    def a_second(self):
        """CPU seconds a second of the clients' backends, and of all other processes; None
        where the run was too short to tell."""
        same = [r for r in self.readings if r[1].keys() == self.readings[-1][1].keys()]
        same = [r for r in same if r[0] >= same[0][0] + CPU_SETTLE]
        if not same or same[-1][0] - same[0][0] < CPU_LEAST:
            return None, None
        (begin, *before), (end, *after) = same[0], same[-1]
        return [sum(now - then.get(pid, 0) for pid, now in those.items()) / (end - begin)
                for then, those in zip(before, after)]
