"""The lines of the table that tests/bench/run prints."""

import statistics
from dataclasses import dataclass


@dataclass
class Line:
    """One figure of a row: the values of all pairs, and what is promised of their median."""

    work: str
    against: str
    values: list[float]
    least: float | None = None
    most: float | None = None
    form: str = ".2f"
    unit: str = ""
    note: str = ""
    """What differs from the row's own words."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        """None where nothing is promised."""
        if self.least is None and self.most is None:
            return None
        return (self.least is None or self.median >= self.least) and (self.most is None or self.median <= self.most)

    @property
    def target(self) -> str:
        bounds = [f"at least {self.least:g}" if self.least is not None else "", f"at most {self.most:g}" if self.most is not None else ""]
        return " and ".join(filter(None, bounds)) + (f" {self.unit}" if self.unit and self.met is not None else "")

    @property
    def measured(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if len(self.values) == 1:
            return f"{self.median:{self.form}}{unit}"
        return f"{self.median:{self.form}}{unit} ({min(self.values):{self.form}} to {max(self.values):{self.form}})"

    @property
    def verdict(self) -> str:
        return {None: "told", True: "met", False: "NOT MET"}[self.met]


def cells_of(line: Line) -> tuple[str, ...]:
    work = line.work + (f" [{line.note}]" if line.note else "")
    return work, line.against, line.measured, line.target, line.verdict


def as_text(lines: list[Line]) -> str:
    """In the form of a table of Markdown, so that it can be shown as it is."""
    rows = [("work", "against", "median (spread)", "target", "verdict"), *map(cells_of, lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    written = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([written[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *written[1:]])


def alternate(pairs: int, **sides) -> dict[str, list]:
    """Runs each side once in each round, so that what drifts falls on all, and each round begins with another one."""
    names, results = [*sides], {name: [] for name in sides}
    for number in range(pairs):
        for name in names[number % len(names):] + names[:number % len(names)]:
            results[name].append(sides[name]())
    return results


def ratios(over: list[dict], under: list[dict], key: str) -> list[float]:
    """Of each pair."""
    return [one[key] / other[key] for one, other in zip(over, under, strict=True)]


def figures(results: list[dict], key: str) -> list[float]:
    return [each[key] for each in results]
