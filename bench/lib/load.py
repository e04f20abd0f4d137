"""One run of pgbench."""
import glob
import os
import re
import subprocess
import tempfile

from lib import server

# The share of transactions whose latency is written down. Writing all of them
# would cost the fast contenders more than the slow ones.
SAMPLED = 0.2

# Seconds that so many clients took to connect when they last did
CONNECTING = {}


def command(directory, database, script, clients, length, sampled=SAMPLED, prepared=True):
    """pgbench's, with its script and its log in the directory."""
    path = os.path.join(directory, "script.sql")
    with open(path, "w") as file:
        file.write(script + "\n")
    return ["pgbench", "-n", "-M", "prepared" if prepared else "simple",
            "-f", path, "-c", str(clients), "-j", str(min(clients, 2)), *length,
            "-l", "--log-prefix", os.path.join(directory, "log"), "--sampling-rate", str(sampled), database]


def pgbench(database, script, clients, length, settings={}, sampled=SAMPLED, prepared=True,
            until_error=False):
    """Runs the script; length is pgbench's -T or -t. Returns what pgbench tells.

    With until_error the clients go on until their script fails, as it is meant to.
    """
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            command(directory, database, script, clients, length, sampled, prepared),
            env=server.environment(settings), capture_output=True, text=True)
        if done.returncode != (2 if until_error else 0):
            raise RuntimeError(f"pgbench in {database}: {done.stderr.strip()}")
        found = told(done.stdout)
        CONNECTING[clients] = found["connect_ms"] / 1000
        return {**found, "latencies": latencies(directory)}


def duration(database, clients, seconds):
    """pgbench's -T for so many seconds after all have connected, and have made their first calls, which take
    about half as long: its clock starts before that."""
    if clients not in CONNECTING:
        pgbench(database, "SELECT 1;", clients, ["-t", "1"])
    return ["-T", str(seconds + round(1.5 * CONNECTING[clients]))]


def told(output):
    """What the clients were told: transactions that worked, that failed, how fast."""
    def number(pattern):
        return re.search(pattern, output, re.MULTILINE).group(1)
    return {"processed": int(number(r"actually processed: (\d+)")),
            "failed": int(number(r"failed transactions: (\d+)")),
            "connect_ms": float(number(r"^initial connection time = ([\d.]+) ms")),
            "per_second": float(number(r"^tps = ([\d.]+) \(without"))}


def logged(directory):
    """The fields of the sampled transactions that succeeded."""
    for path in glob.glob(os.path.join(directory, "log.*")):
        with open(path) as file:
            yield from (fields for fields in map(str.split, file) if fields[2].isdigit())


def latencies(directory):
    """Sampled latencies in ms, sorted."""
    return sorted(int(fields[2]) / 1000 for fields in logged(directory))


def times(directory):
    """When the sampled transactions ended, in seconds since 1970, sorted."""
    return sorted(int(fields[4]) + int(fields[5]) / 1e6 for fields in logged(directory))


def percentile(ordered, share):
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None
