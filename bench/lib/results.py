"""The raw figures: one line a figure, so that nothing has to fit anything."""
import csv
import time

FIELDS = ["section", "contender", "at", "repeat", "metric", "value"]


def verdict(off, failed=0):
    """What became of the counts. One that failed in the client's eyes may have
    been counted or not; every other one must be there, once."""
    return "LOST" if off < 0 else "INVENTED" if off > failed else "exact"


class Results:
    def __init__(self, path):
        self.file = open(path, "w", newline="")
        self.writer = csv.writer(self.file, lineterminator="\n")
        self.writer.writerow(FIELDS)
        self.begun = time.monotonic()
        self.wrong = set()              # contenders that lost or invented counts

    def elapsed(self):
        return time.monotonic() - self.begun

    def say(self, text):
        print(f"{self.elapsed():5.0f} s  {text}", flush=True)

    def add(self, section, contender, at, repeat, found):
        for metric, value in found.items():
            if value is not None:
                self.writer.writerow([section, contender, at, repeat, metric,
                                      f"{value:.6g}" if isinstance(value, float) else value])
        self.file.flush()
        shown = ", ".join(f"{name} {found[name]:,.6g}" for name in
                          ("per_second", "seconds", "p50_ms", "dead_rows") if found.get(name) is not None)
        if "off" in found:
            checked = verdict(found["off"], found["failed"])
            shown += f", {checked}" + (f" ({found['off']:+d})" if checked != "exact" else "")
            if checked != "exact":
                self.wrong.add(contender)
        self.say(f"{section}, {contender}, {at}: {shown}")
