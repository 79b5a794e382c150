"""The drill: regions under load while links break and edges are killed; at the end nothing that was acknowledged may be missing.

What is asked of it while it goes on is in load.py; here are the faults, the last look at everything, and the report.
"""

import random
import signal
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product

from api import Lost, digest_of
from load import AGAIN_S, PATIENCE_S, Client, Load
from network import Network, Site
from recorder import Image, Recorder
from regions import Regions, has

BETWEEN_KILLS_S = (2.0, 4.0)
DEAD_S = 1.0
RECOVERY_S = 5
"""After a link's return, how long figures are not told as those of whole links."""
DECLARE_S = 30
"""How long declaring a region lost may take: an edge that must be asked may be dead just then."""
CATCH_UP_S = 120
"""How long regions may take after healing, before that is a failure by itself."""
HONEST_S = 20
"""How long an edge may take to say how far behind it is."""
CHECKERS = 8
WHOLE, BROKEN = "whole links", "broken links"


class Drill:
    def __init__(self, regions: Regions, network: Network, sites: dict[str, Site], seed: int):
        self.regions, self.network, self.sites = regions, network, sites
        self.recorder, self.chance = Recorder(), random.Random(seed)
        self.faults: Counter[str] = Counter()
        self.catch_up_s: dict[str, float] = {}
        """From healing until every edge had everything that had been acknowledged by then, by what had been broken."""
        self.conflicts: set[tuple[str, str]] = set()
        """Tags that were set in two regions, as far as can be told neither seeing the other's: at least the true conflicts."""
        self.told_conflicts = float("nan")
        """How many the edges count, all the same number."""
        self.declared = ""
        """What was said when a region was declared lost."""
        self._links_whole_since: float | None = 0.0
        self._killing = threading.Event()
        self.regions.settle()
        self.load = Load(regions, self.recorder, seed, self.weather)
        self._began = time.monotonic()
        self._took_s = 0.0

    def weather(self) -> str:
        since = self._links_whole_since
        return WHOLE if since is not None and time.monotonic() - since > RECOVERY_S else BROKEN

    @contextmanager
    def under_load(self):
        """Load and kills, while the body breaks links."""
        self.load.start()
        killer = threading.Thread(target=self._kill_again_and_again, daemon=True)
        killer.start()
        try:
            yield
        finally:
            self._killing.set()
            killer.join()
            self.load.stop()
            self._took_s = time.monotonic() - self._began

    def _kill_again_and_again(self) -> None:
        """One at a time: a client that finds no edge there asks the region's other one."""
        while not self._killing.wait(self.chance.uniform(*BETWEEN_KILLS_S)):
            edge = self.chance.choice(self.regions.edges)
            ended = edge.stop(signal.SIGKILL)
            if ended != -signal.SIGKILL:
                self.recorder.wrong(f"an edge had ended by itself with {ended}:\n{edge.process.tail(20)}")
            self.faults["edges killed"] += 1
            time.sleep(self.chance.uniform(0, DEAD_S))
            try:
                edge.start()
            except AssertionError as fault:
                self.recorder.wrong(f"an edge does not start after a kill: {fault}")

    def break_links(self, what: str, break_them, last_s: float, cut_off: str | None = None) -> None:
        """Breaks links for a while, mends them, and waits until the regions know of each other what they missed. `cut_off`: a region
        that nobody can see meanwhile."""
        self._links_whole_since = None
        self.faults[what] += 1
        break_them()
        time.sleep(last_s)
        if cut_off:
            self._lag_is_told(cut_off)
        self.network.heal()
        self.catch_up_s[what] = self.time_to_catch_up()
        self._links_whole_since = time.monotonic()

    def lose_region(self, name: str, by: str, before_s: float, after_s: float) -> None:
        """Cuts a region off, declares it lost in another one, leaves it cut off, and lets it return. What it acknowledges all that time
        counts: it takes pushes until it hears of its loss."""
        what = f"regions declared lost and back after {before_s + after_s:.0f} s"
        self._links_whole_since = None
        self.faults[what] += 1
        old = self.regions.origin_of(name)
        self.network.isolate(next(site for site in self.sites.values() if site.name == name))
        time.sleep(before_s)
        self._declare_lost(name, by)
        time.sleep(after_s)
        self.network.heal()
        began = time.monotonic()
        self._begins_anew(name, old)
        self.catch_up_s[f"a lost region's return, to its new incarnation in {time.monotonic() - began:.1f} s"] = self.time_to_catch_up()
        self._links_whole_since = time.monotonic()

    def _declare_lost(self, name: str, by: str) -> None:
        until = time.monotonic() + DECLARE_S
        while True:
            try:
                self.declared = self.regions.declare_lost(name, by).strip()
                return
            except LookupError as not_now:
                if time.monotonic() > until:
                    raise AssertionError(f"{name} cannot be declared lost: {not_now}") from not_now
                time.sleep(0.5)

    def _begins_anew(self, name: str, old: str) -> None:
        """Waits until every edge of a region runs in another incarnation."""
        until = time.monotonic() + CATCH_UP_S
        for edge in self.regions.by_name[name].edges:
            while (told := self._told(name, edge)) is None or f"{told['region']}.{told['incarnation']}" == old:
                assert time.monotonic() < until, f"{name}, {edge.plain} does not begin anew: {told}"
                time.sleep(0.1)

    def _lag_is_told(self, cut_off: str) -> None:
        """No edge may say that it is level with a region that it cannot see."""
        for name, region in self.regions.by_name.items():
            hidden = self.regions.others(name) if name == cut_off else [cut_off]
            for edge, other in product(region.edges, hidden):
                until = time.monotonic() + HONEST_S
                # One that was killed just now has to notice first.
                while not (behind_s := self._gauge(edge, f'outport_peer_behind_seconds{{region="{other}"}}')):
                    if time.monotonic() > until:
                        self.recorder.wrong(f"{name}, {edge.plain} is {behind_s} s behind {other}, which it cannot see")
                        break
                    time.sleep(0.2)

    @staticmethod
    def _gauge(edge, name: str) -> float | None:
        """A figure of an edge's metrics; None if it has none, or is not there."""
        try:
            lines = edge.metrics().splitlines()
        except OSError:
            return None
        return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name)), None)

    def time_to_catch_up(self) -> float:
        """How long until every edge has what all regions have committed when this begins."""
        began = time.monotonic()
        wanted = {}
        for name, region in self.regions.by_name.items():
            told = self._one_that_answers(name, region.edges)
            wanted[f"{told['region']}.{told['incarnation']}"] = told["seq"]
        for name, region in self.regions.by_name.items():
            for edge in region.edges:
                while not self._has(name, edge, wanted):
                    if time.monotonic() - began > CATCH_UP_S:
                        self.recorder.wrong(f"{name}, {edge.plain} has not caught up: {self._told(name, edge)}, wanted {wanted}")
                        return float("inf")
                    time.sleep(0.05)
        return time.monotonic() - began

    def _one_that_answers(self, name: str, edges: list) -> dict:
        until = time.monotonic() + CATCH_UP_S
        while time.monotonic() < until:
            for edge in edges:
                if (told := self._told(name, edge)) is not None:
                    return told
            time.sleep(0.05)
        raise AssertionError(f"no edge of {name} tells where it stands")

    def _told(self, name: str, edge) -> dict | None:
        try:
            return self.regions.ledger_of(edge, name)
        except LookupError:
            return None

    def _has(self, name: str, edge, wanted: dict[str, int]) -> bool:
        told = self._told(name, edge)
        return told is not None and has(told, wanted)

    # The last look.

    def check(self) -> None:
        """Once load and faults have ended: every acknowledged image is whole in every region, every tag is the same everywhere and one
        that the rule allows, and what was deleted is gone."""
        self.catch_up_s["the end of the load"] = self.time_to_catch_up()
        self.conflicts = self.recorder.conflicts()
        self.told_conflicts = self._conflicts_told()
        kept = [image for image in self.recorder.images if (image.repository, image.digest) not in self.recorder.undecided]
        with ThreadPoolExecutor(CHECKERS) as checkers:
            names = self.regions.names
            work = [lambda c, i=image, n=name: self._is_whole(c, i, n) for image, name in product(kept, names)]
            work += [lambda c, t=tag: self._is_the_same(c, *t) for tag in self.recorder.tags()]
            work += [lambda c, d=each, n=name: self._is_gone(c, *d, n) for each, name in product(self.recorder.deleted, names)]
            self.chance.shuffle(work)
            shares = [work[first::CHECKERS] for first in range(CHECKERS)]
            for done in [checkers.submit(self._check_share, number, share) for number, share in enumerate(shares)]:
                done.result()

    def _conflicts_told(self) -> float:
        until = time.monotonic() + HONEST_S
        while True:
            told = {edge.plain: self._gauge(edge, "outport_tag_conflicts") for edge in self.regions.edges}
            counts = set(told.values())
            if len(counts) == 1 and None not in counts:
                return counts.pop()
            if time.monotonic() > until:
                self.recorder.wrong(f"edges count different conflicts: {told}")
                return float("nan")
            time.sleep(0.2)

    def _check_share(self, number: int, share: list) -> None:
        client = Client(self.regions, self.recorder, f"check {number}")
        for work in share:
            work(client)
        client.close()

    def _is_whole(self, client: Client, image: Image, name: str) -> None:
        if self._told_in_time(lambda: client.pull(name, image, image.digest)) != image.digest:
            self.recorder.count("lost")
            self.recorder.wrong(f"{name}: {image.repository}@{image.digest}, acknowledged in {image.region}, is not whole")

    def _is_gone(self, client: Client, repository: str, digest: str, name: str) -> None:
        answer = self._told_in_time(lambda: client.look(name, repository, digest))
        if answer is None or answer.status != 404:
            self.recorder.count("came back")
            self.recorder.wrong(f"{name}: {repository}@{digest} was deleted, and is {answer and answer.status}")

    def _is_the_same(self, client: Client, repository: str, tag: str) -> None:
        found: dict[str | None, list[str]] = defaultdict(list)
        for name, region in self.regions.by_name.items():
            for edge in region.edges:
                answer = self._told_in_time(lambda n=name, e=edge: client.look(n, repository, tag, edge=e))
                if answer is None:
                    self.recorder.wrong(f"{name}, {edge.plain}: nothing is told of {repository}:{tag}")
                    return
                found[digest_of(answer.body) if answer.status == 200 else None].append(name)
        self.recorder.count("tags compared")
        if len(found) > 1:
            self.recorder.count("tags that differ")
            self.recorder.wrong(f"{repository}:{tag} differs: {dict(found)}")
        for digest in found.keys() - self.recorder.possible(repository, tag):
            self.recorder.count("reverted or lost tags")
            self.recorder.wrong(f"{repository}:{tag} is {digest}, may be {self.recorder.possible(repository, tag)}")

    def _told_in_time(self, ask):
        """What is told in the end, as a client hears it that asks again after a 503: a busy machine does not answer every peer in the time
        that a peer has."""
        until = time.monotonic() + PATIENCE_S
        while (told := ask()) is None and time.monotonic() < until:
            self.recorder.count("asked again")
            time.sleep(AGAIN_S)
        return told

    def report(self) -> str:
        told = self.recorder.told
        operations = [(told[what], what) for what in ("pushes", "tags removed", "manifests deleted", "pulls")]
        trouble = [(told[what], what) for what in ("503 to a push", "503 to a pull", "lost answers", "given up", "uploads begun again")]
        lost = [(told[what], what) for what in ("lost", "came back", "reverted or lost tags", "tags that differ", "wrong")]
        lines = [
            f"drill: {len(self.regions.names)} regions of {len(self.regions.edges) // len(self.regions.names)} edges, {self._took_s:.0f} s",
            f"  acknowledged: {_listed(operations)}",
            f"  faults: {_listed((count, what) for what, count in self.faults.items())}",
            f"  meanwhile: {_listed(trouble)}",
            f"  at the end: {told['tags compared']} tags compared, {len(self.conflicts)} of them set in two regions at once, "
            f"{self.told_conflicts:.0f} counted as conflicts, {told['asked again']} reads asked again; {_listed(lost)}",
            "  caught up: " + ", ".join(f"{took:.1f} s after {what}" for what, took in self.catch_up_s.items()),
        ]
        if self.declared:
            lines.append(f"  {self.declared}")
        for weather, values in sorted(self.recorder.stale_s.items()):
            lines.append(f"  moved tags without a position, {weather}: {len(values)} reads, older than the newest value by {_quantiles(values)}")
        return "\n".join(lines)


def _listed(counts) -> str:
    return ", ".join(f"{count} {what}" for count, what in counts)


def _quantiles(values: list[float]) -> str:
    values = sorted(values)
    at = {share: values[min(len(values) - 1, int(len(values) * share))] for share in (0.5, 0.99)}
    return f"p50 {at[0.5]:.2f} s, p99 {at[0.99]:.2f} s, at most {values[-1]:.2f} s"
