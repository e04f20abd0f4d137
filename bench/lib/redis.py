"""The Redis contender: INCR beside the database, in an append-only file."""
import os
import subprocess
import time

TITLES = {"always": "Redis INCR, always", "everysec": "Redis INCR, everysec"}
SUM = """
local cursor, sum = '0', 0
repeat
  local page = redis.call('SCAN', cursor, 'COUNT', 10000)
  cursor = page[1]
  for _, key in ipairs(page[2]) do sum = sum + redis.call('GET', key) end
until cursor == '0'
return sum"""

FILL = """
for n = 0, ARGV[1] - 1 do redis.call('SET', string.format('prompt:%012d', n), '1') end"""


class Redis:
    """A redis-server of our own, in a directory of its own."""
    base = "redis"
    parts = {}

    def __init__(self, policy, directory):
        self.name, self.title = "redis_" + policy, TITLES[policy]
        self.directory = os.path.join(directory, self.name)
        os.mkdir(self.directory)
        self.socket = os.path.join(self.directory, "socket")
        self.process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", self.socket, "--dir", self.directory,
             "--save", "", "--appendonly", "yes", "--appendfsync", policy],
            stdout=subprocess.DEVNULL)
        while not os.path.exists(self.socket):
            if self.process.poll() is not None:
                raise RuntimeError("redis-server did not start")
            time.sleep(0.01)

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def command(self, *words):
        return subprocess.run(["redis-cli", "-s", self.socket, *words],
                              check=True, capture_output=True, text=True).stdout.strip()

    def benchmark(self, clients, requests, prompts, command="INCR"):
        """redis-benchmark's line: requests a second, latencies in ms."""
        keys = ["-r", str(prompts)] if prompts else []
        key = "prompt:__rand_int__" if prompts else "prompt:1"
        out = subprocess.run(["redis-benchmark", "-s", self.socket, "-c", str(clients), "-n", str(requests),
                              *keys, "--csv", command, key], check=True, capture_output=True, text=True).stdout
        names, values = (line.strip('"').split('","') for line in out.splitlines()[-2:])
        return {name: float(value) for name, value in list(zip(names, values))[1:]}

    def total(self):
        return int(self.command("EVAL", SUM, "0"))

    def log_bytes(self):
        """Size of the append-only file."""
        folder = os.path.join(self.directory, "appendonlydir")
        return sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))

    def run(self, clients, seconds, prompts=None):
        """As load.pgbench, with the sum and the log growth that belong to it."""
        # It runs for a number of requests, not for a time: a short run tells the pace.
        pace = self.benchmark(clients, 500 * clients, prompts)["rps"]
        requests = max(1000, int(pace * seconds))
        before, log = self.total(), self.log_bytes()
        line = self.benchmark(clients, requests, prompts)
        return {"processed": requests, "failed": 0, "per_second": line["rps"],
                "p50_ms": line["p50_latency_ms"], "p95_ms": line["p95_latency_ms"],
                "p99_ms": line["p99_latency_ms"],
                "wal_bytes_a_count": (self.log_bytes() - log) / requests,
                "off": self.total() - before - requests}

    def create(self, prompts, logged):
        """As Contender.create, for reading only."""
        self.command("FLUSHALL")
        self.command("CONFIG", "SET", "appendonly", "no")
        self.command("EVAL", FILL, "0", str(prompts))
