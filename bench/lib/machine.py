"""What it ran on: printed with every result."""
import os
import platform
import subprocess
import time

from lib import server


def first_line(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.strip().splitlines()[0]


def cpu_model():
    with open("/proc/cpuinfo") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def sync_ms(directory, times=200):
    """What the disk takes for one fdatasync of a page, median."""
    path = os.path.join(directory, "sync")
    taken = []
    with open(path, "wb", buffering=0) as file:
        file.write(bytes(8192 * times))
        os.fsync(file.fileno())
        for i in range(times):
            begun = time.perf_counter()
            os.pwrite(file.fileno(), b"x" * 8192, i * 8192)
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - begun) * 1000)
    os.remove(path)
    return sorted(taken)[times // 2]


def describe():
    directory = os.environ["TMPDIR"]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return "\n".join([
        f"commit      {os.environ.get('BENCH_COMMIT', 'unknown')}",
        f"date        {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC",
        f"processor   {os.cpu_count()} x {cpu_model()}",
        f"memory      {memory:.0f} GB",
        f"system      {platform.system()} {platform.release()}",
        f"file system {first_line('stat', '-f', '-c', '%T', directory)}, "
        f"{sync_ms(directory):.2f} ms an fdatasync",
        f"server      {first_line('postgres', '--version')}",
        f"redis       {first_line('redis-server', '--version')}",
        "",
        "The server's settings, where they are not the default, and those that matter:",
        server.settings_in_force(), ""])
