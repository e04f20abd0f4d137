"""The raw figures of a result, read again."""
import csv
import os
import statistics
from collections import defaultdict

from lib.results import verdict

BASE = "upsert_plpgsql"                 # the yardstick of every ratio
LIMIT = "noop"


class Figures:
    """raw.csv, by section, contender, size and metric; the values by repeat."""

    def __init__(self, directory):
        self.values = defaultdict(dict)
        with open(os.path.join(directory, "raw.csv")) as file:
            for row in csv.DictReader(file):
                key = row["section"], row["contender"], int(row["at"]), row["metric"]
                self.values[key][int(row["repeat"])] = float(row["value"])
        with open(os.path.join(directory, "contenders.csv")) as file:
            self.titles = dict(line.rstrip("\n").split(",", 1) for line in file)

    def get(self, section, contender, at, metric):
        return list(self.values.get((section, contender, at, metric), {}).values())

    def median(self, *key):
        values = self.get(*key)
        return statistics.median(values) if values else None

    def ratios(self, section, contender, at, metric, base=BASE):
        """To the base's value of the same repeat."""
        bases = self.values.get((section, base, at, metric), {})
        mine = self.values.get((section, contender, at, metric), {})
        return [value / bases[repeat] for repeat, value in mine.items() if bases.get(repeat)]

    def sections(self):
        return list(dict.fromkeys(section for section, *_ in self.values))

    def sizes(self, section):
        return sorted({key[2] for key in self.values if key[0] == section})

    def contenders(self, section):
        """In the order of their titles' file, then any others."""
        found = {key[1]: None for key in self.values if key[0] == section}
        return [c for c in self.titles if c in found] + [c for c in found if c not in self.titles]

    def title(self, contender):
        wrong = {word for word, who, *_ in self.miscounts() if who == contender}
        return " ".join([self.titles.get(contender, contender), *(f"**{word}**" for word in sorted(wrong))])

    def runs_checked(self):
        return sum(len(values) for key, values in self.values.items() if key[3] == "off")

    def miscounts(self):
        """(word, contender, section, size, how many) of every run that did not add up."""
        for (section, contender, at, metric), values in self.values.items():
            for repeat, off in values.items() if metric == "off" else ():
                failed = self.values[section, contender, at, "failed"][repeat]
                if verdict(off, failed) != "exact":
                    yield verdict(off, failed), contender, section, at, int(off)
