"""Async beside the no-op in warm sessions, in turn: what a call costs when nothing is new to anybody.

A session's first calls load a library, plan, and touch memory for the first time. In a run of
seconds that is much of what a contender does whose call takes microseconds, and over hours
nothing. So the sessions of both stay, and those of one are stopped while the other's count.
"""
import signal
import subprocess
import tempfile
import time
from bisect import bisect

from lib import load, server
from lib.contender import Workload

CONTENDERS = "noop", "prompt_stats_async"

# Seconds: of a turn, from its begin until flushes (each 0.2 s) are in balance with counts, and
# after it until they have come to rest
TURN, SETTLE, REST = 1.0, 0.3, 0.25


class Sessions:
    """A pgbench whose clients have been counting for some seconds, stopped."""

    def __init__(self, contender, script, clients, seconds):
        self.database = contender.database
        self.directory = tempfile.TemporaryDirectory()
        others = len(server.client_seconds(self.database))      # which stay
        self.process = subprocess.Popen(
            load.command(self.directory.name, self.database, script, clients, ["-T", "3600"]),
            env=server.environment(contender.settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while len(server.client_seconds(self.database)) < others + clients and self.process.poll() is None:
            time.sleep(0.02)
        time.sleep(seconds)
        self.stop()

    def stop(self):
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(REST)

    def turn(self):
        """(begin, end, CPU seconds of its backends) of the part that counts."""
        self.process.send_signal(signal.SIGCONT)
        time.sleep(SETTLE)
        begin, before = time.time(), server.client_seconds(self.database)
        time.sleep(TURN - SETTLE)
        end, after = time.time(), server.client_seconds(self.database)
        self.stop()
        return begin, end, sum(after.values()) - sum(before.values())

    def end(self):
        """What the clients were told; when, of a sample."""
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGALRM)        # as when a pgbench's time is up
        out, error = self.process.communicate()
        if self.process.returncode != 0:
            raise RuntimeError(f"pgbench in {self.database}: {error.strip()}")
        return load.told(out), load.times(self.directory.name)


def figures(turn, times):
    begin, end, cpu = turn
    counts = (bisect(times, end) - bisect(times, begin)) / load.SAMPLED
    return {"per_second": counts / (end - begin), "backend_us_a_count": cpu / counts * 1e6}


def measure(plan, warm, contenders, results):
    """One section: a repeat is a turn of each."""
    contenders = [c for c in contenders if c.name in CONTENDERS]
    workload = Workload(warm.workload)
    for clients, seconds in warm.clients.items():
        before = [c.total() for c in contenders]
        sessions = [Sessions(c, workload.script(c, plan.prompts), clients, seconds) for c in contenders]
        turns = [[s.turn() for s in sessions] for _ in range(warm.turns)]
        for number, (contender, those) in enumerate(zip(contenders, sessions)):
            told, times = those.end()
            _, after = contender.settled()
            found = [figures(turn[number], times) for turn in turns]
            found[0].update({"processed": told["processed"], "failed": told["failed"]})
            if after is not None:
                found[0]["off"] = after - before[number] - told["processed"]
            for repeat, these in enumerate(found, 1):
                results.add(f"warm {warm.workload}", contender.name, clients, repeat, these)
