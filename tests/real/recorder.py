"""Remembers every acknowledged operation on several regions, and says what the registry may answer afterwards.

A tag may be what any operation left there that no other has superseded. One supersedes another if it began when the other was settled
and its region had it: it was the same region's own, or the region had told before that it has it. Two of which neither had seen the
other are a conflict: whichever wins, it must win everywhere.
"""

import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

ZOMBIE_S = 15
"""How long an attempt whose answer was lost, or was 503, may still take effect."""
MOST_WRONGS = 20


@dataclass(frozen=True)
class Image:
    repository: str
    digest: str
    blobs: dict[str, int]
    """With sizes."""
    region: str
    """Where its manifest was acknowledged."""


@dataclass(eq=False)
class Change:
    """A tag set or removed, by one request or by several that ask for the same until one is acknowledged."""

    digest: str | None
    """None removes it."""
    region: str
    began: float
    settled: float = float("inf")
    """From then on it has had its effect, and will have no other."""
    acknowledged: bool = False
    position: tuple[str, int] | None = None
    """The ledger and the segment where it was committed, as far as that was told."""
    seen: dict[str, int] = field(default_factory=dict)
    """What its edge said, before it began, that it has of each ledger."""

    def supersedes(self, other: "Change") -> bool:
        if self is other or not self.acknowledged or self.began < other.settled:
            return False
        if self.region == other.region:
            return True
        return other.position is not None and self.seen.get(other.position[0], 0) >= other.position[1]


class Recorder:
    """For several threads."""

    def __init__(self):
        self.images: list[Image] = []
        """Acknowledged."""
        self.deleted: set[tuple[str, str]] = set()
        """Repository and digest, acknowledged."""
        self.undecided: set[tuple[str, str]] = set()
        """Repository and digest of manifests whose deletion was asked for and not acknowledged: they may be there or not."""
        self.told: Counter[str] = Counter()
        self.wrongs: list[str] = []
        self.refusals: list[str] = []
        """The first answers that were 503, with what they said: right while something is broken, and only then."""
        self.stale_s: dict[str, list[float]] = defaultdict(list)
        """How long a tag's newer value had been acknowledged when an older one was served, 0 for the newest, by what went on."""
        self._changes: dict[tuple[str, str], list[Change]] = defaultdict(list)
        self._lock = threading.Lock()

    def count(self, what: str, by: int = 1) -> None:
        with self._lock:
            self.told[what] += by

    def wrong(self, what: str) -> None:
        with self._lock:
            self.told["wrong"] += 1
            if len(self.wrongs) < MOST_WRONGS:
                self.wrongs.append(f"{time.strftime('%H:%M:%S', time.gmtime())} {what}")

    def refused(self, by_what: str, why: str) -> None:
        """503: a push or a pull was not done now."""
        with self._lock:
            self.told[f"503 to a {by_what}"] += 1
            if len(self.refusals) < MOST_WRONGS:
                self.refusals.append(f"{time.strftime('%H:%M:%S', time.gmtime())} {why}")

    def pushed(self, image: Image) -> None:
        with self._lock:
            self.images.append(image)

    def begin(self, repository: str, tag: str, change: Change) -> Change:
        """Before the first request for it."""
        with self._lock:
            self._changes[repository, tag].append(change)
        return change

    def forget(self, repository: str, tag: str, change: Change) -> None:
        """It had no effect, and never will."""
        with self._lock:
            self._changes[repository, tag].remove(change)

    def tags(self) -> list[tuple[str, str]]:
        with self._lock:
            return [*self._changes]

    def changes(self, repository: str, tag: str) -> list[Change]:
        with self._lock:
            return [*self._changes[repository, tag]]

    def possible(self, repository: str, tag: str) -> set[str | None]:
        """What the tag may be once every region has everything. Acknowledged changes that nothing supersedes; those that nobody
        acknowledged, too; nothing where nothing was ever acknowledged."""
        changes = self.changes(repository, tag)
        left = {each.digest for each in changes if not any(other.supersedes(each) for other in changes)}
        return left if any(each.acknowledged for each in changes) else left | {None}

    def conflicts(self) -> set[tuple[str, str]]:
        """Tags that two regions set to different digests while neither had seen the other's, as far as can be told from outside."""
        return {name for name in self.tags() if len({c.region for c in self._last(*name)}) > 1 and len(self.possible(*name)) > 1}

    def _last(self, repository: str, tag: str) -> list[Change]:
        changes = [each for each in self.changes(repository, tag) if each.acknowledged]
        return [each for each in changes if not any(other.supersedes(each) for other in changes)]
