"""The PostgreSQL side: SQL, sessions, CPU time.

scripts/sandbox.sh and cluster.sh made the cluster: PGHOST and PGDATA say where it
is, PATH begins with its programs.
"""
import os
import subprocess
import time

TICK = os.sysconf("SC_CLK_TCK")


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


class Session:
    """A psql that stays open beside a measurement: `with Session(database, sql):`"""

    def __init__(self, database, sql):
        self.process = subprocess.Popen(psql_command(database), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.process.stdin.write(sql)
        self.process.stdin.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate()


def holding_snapshot(database):
    """A report that somebody left open: nothing that dies can be cleaned away."""
    session = Session(database, "BEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT 'held';\n")
    session.process.stdout.readline()
    return session


def each_second(database, sql):
    return Session(database, sql.rstrip().rstrip(";") + " \\watch 1\n")


def wal_position(database):
    return int(psql(database, "SELECT pg_current_wal_insert_lsn() - '0/0'"))


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


class Cpu:
    """CPU seconds of the cluster's processes.

    A process hands its time to its parent when it ends, so what the postmaster
    has from its children is the backends that came and went; the living ones
    are the background processes (and a flusher, if there is one).
    """

    def __init__(self):
        with open(os.path.join(os.environ["PGDATA"], "postmaster.pid")) as file:
            self.postmaster = int(file.readline())

    def children(self):
        with open(f"/proc/{self.postmaster}/task/{self.postmaster}/children") as file:
            return file.read().split()

    def read(self):
        """Seconds of those that ended, and {pid: seconds} of those that live."""
        alive = {}
        for pid in self.children():
            try:
                alive[pid] = sum(stat(pid)[11:13]) / TICK
            except FileNotFoundError:
                pass
        return sum(stat(self.postmaster)[13:15]) / TICK, alive

    def since(self, before):
        """Seconds since that reading: (of backends that ended, of living processes)."""
        # pgbench is gone a moment before its backends are.
        deadline = time.monotonic() + 0.5
        while set(self.children()) - set(before[1]) and time.monotonic() < deadline:
            time.sleep(0.01)
        ended, alive = self.read()
        return ended - before[0], sum(now - before[1].get(pid, 0) for pid, now in alive.items())


def stat(pid):
    """/proc/PID/stat after the process's name, which may hold anything."""
    with open(f"/proc/{pid}/stat") as file:
        return [int(field) if field.lstrip("-").isdigit() else 0
                for field in file.read().rsplit(")", 1)[1].split()]
