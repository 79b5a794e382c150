"""Clients of several regions at once: many small pushes, pulls elsewhere at the same moment, and what is wrong told as it happens."""

import json
import random
import threading
import time

from api import Answer, Api, Lost, digest_of, local, with_query
from images import CONFIG, LAYER, MANIFEST
from recorder import ZOMBIE_S, Change, Image, Recorder
from regions import Regions

SIZES = (300, 20_000, 50_000, 300_000)
"""Of blobs: both sides of what travels inside the ledger."""
WEIGHTS = (4, 3, 3, 1)
PATIENCE_S = 20
"""How long a client asks again for what gets 503, before it gives that image up."""
AGAIN_S = 0.2
POSITION = "Outport-Position"


class GivenUp(Exception):
    """Nobody took it in time: it may have had its effect or not."""


def position_of(answer: Answer) -> tuple[str, int] | None:
    """The ledger, and the number of a segment in it."""
    origin, _, number = (answer.headers[POSITION] or "").rpartition("@")
    return (origin, int(number)) if origin else None


class Client:
    """Asks edges of regions, drawn at random. Not for several threads."""

    def __init__(self, regions: Regions, recorder: Recorder, seed: str):
        self.regions, self.recorder, self.chance = regions, recorder, random.Random(seed)
        self._apis: dict[str, Api] = {}

    def ask(self, region: str, method: str, target: str, body: bytes = b"", edge=None, **headers: str) -> Answer:
        """An edge that is not there has seen nothing of it: then another one of the region is asked. Lost, if an answer does not come."""
        edges = [edge] if edge else self.chance.sample(self.regions.by_name[region].edges, len(self.regions.by_name[region].edges))
        for number, each in enumerate(edges, 1):
            api = self._apis.setdefault(each.plain, Api(each.plain))
            try:
                return api.ask(method, target, body, **headers)
            except Lost as lost:
                if number == len(edges) or not isinstance(lost.__cause__, ConnectionRefusedError):
                    raise
        raise AssertionError("a region without edges")

    def insist(self, regions: list[str], method: str, target: str, good: tuple[int, ...], body: bytes = b"", *, edge=None, unsure=None,
               **headers: str) -> tuple[Answer, str]:
        """Asks until somebody answers with one of `good`, each time in a region drawn from these; returns the answer and the region.
        `unsure()` is called after each attempt that may have had an effect unseen."""
        until = time.monotonic() + PATIENCE_S
        while True:
            region = self.chance.choice(regions)
            try:
                answer = self.ask(region, method, target, body, edge, **headers)
                if answer.status in good:
                    return answer, region
                if answer.status != 503:
                    self.recorder.wrong(f"{region}: {method} {target}: {answer.status} instead of {good}: {answer.body[:300]!r}")
                    raise GivenUp
                if not answer.headers["Retry-After"]:
                    self.recorder.wrong(f"{region}: {method} {target}: 503 without Retry-After")
                self.recorder.refused("push", f"{region}: {method} {target}: {answer.body[:300]!r}")
            except Lost:
                self.recorder.count("lost answers")
                edge = None
            if unsure:
                unsure()
            if time.monotonic() > until:
                raise GivenUp
            time.sleep(AGAIN_S)

    def push_blob(self, regions: list[str], repository: str, size: int) -> tuple[str, int]:
        content = self.chance.randbytes(self.chance.randint(size // 2, size))
        digest = digest_of(content)
        if self.chance.random() < (0.7 if len(regions) == 1 else 0.3):
            target = with_query(f"/v2/{repository}/blobs/uploads/", digest=digest)
            self.insist(regions, "POST", target, (201,), content, Content_Type="application/octet-stream")
        else:
            self._push_in_pieces(regions, repository, content, digest)
        return digest, len(content)

    def _push_in_pieces(self, regions: list[str], repository: str, content: bytes, digest: str) -> None:
        """POST, PATCH and PUT, each wherever chance sends it. A session that went with its edge is begun again."""
        until = time.monotonic() + PATIENCE_S
        while True:
            begun, _ = self.insist(regions, "POST", f"/v2/{repository}/blobs/uploads/", (202,))
            try:
                sent = self.ask(self.chance.choice(regions), "PATCH", local(begun.headers["Location"]), content,
                                Content_Type="application/octet-stream")
                if sent.status == 202:
                    target = with_query(local(sent.headers["Location"]), digest=digest)
                    sent = self.ask(self.chance.choice(regions), "PUT", target)
                if sent.status == 201:
                    return
                if sent.status not in (404, 416, 503):
                    self.recorder.wrong(f"an upload that any region may take: {sent.status} {sent.body[:300]!r}")
                self.recorder.count("uploads begun again")
            except Lost:
                self.recorder.count("lost answers")
            if time.monotonic() > until:
                raise GivenUp
            time.sleep(AGAIN_S)

    def push_image(self, regions: list[str], repository: str, tag: str, *, edge=None, seen: dict[str, int] | None = None,
                   blobs: int | None = None) -> tuple[Image, Change, str]:
        """Blobs, then a manifest under a tag: each request to any of the regions. Returns what was pushed, the change, and the position
        that the answer told. `edge`: takes the manifest, if it is there; `seen` is what it had said before."""
        sizes = self.chance.choices(SIZES, WEIGHTS, k=blobs or self.chance.randint(1, 3))
        config, *layers = [self.push_blob(regions, repository, size) for size in (SIZES[0], *sizes)]
        content = json.dumps({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config[0], "size": config[1]},
            "layers": [{"mediaType": LAYER, "digest": digest, "size": size} for digest, size in layers],
        }).encode()
        digest = digest_of(content)
        change, answer, region = self._change(
            regions, repository, tag, digest, "PUT", f"/v2/{repository}/manifests/{tag}", (201,), content, edge=edge, seen=seen,
            Content_Type=MANIFEST,
        )
        image = Image(repository, digest, dict([config, *layers]), region)
        self.recorder.pushed(image)
        self.recorder.count("pushes")
        return image, change, answer.headers[POSITION]

    def untag(self, region: str, repository: str, tag: str, seen: dict[str, int] | None = None) -> tuple[Change, str] | None:
        """None if there was no such tag."""
        change, answer, _ = self._change(
            [region], repository, tag, None, "DELETE", f"/v2/{repository}/manifests/{tag}", (202, 404), seen=seen
        )
        if answer.status == 404:
            return None
        self.recorder.count("tags removed")
        return change, answer.headers[POSITION]

    def delete(self, image: Image, tag: str) -> None:
        """The manifest, and with it the only tag that ever led to it."""
        self.recorder.undecided.add((image.repository, image.digest))
        change, answer, _ = self._change(
            [image.region], image.repository, tag, None, "DELETE", f"/v2/{image.repository}/manifests/{image.digest}", (202, 404)
        )
        if answer.status == 404 and change.settled <= time.monotonic():
            self.recorder.wrong(f"{image.region}: {image.repository}@{image.digest} is not there to be deleted")
        # 404 after an attempt whose answer was lost: that one has deleted it.
        change.acknowledged = True
        self.recorder.deleted.add((image.repository, image.digest))
        self.recorder.count("manifests deleted")

    def _change(self, regions: list[str], repository: str, tag: str, digest: str | None, method: str, target: str, good: tuple[int, ...],
                body: bytes = b"", *, edge=None, seen=None, **headers: str) -> tuple[Change, Answer, str]:
        """A request that changes a tag, remembered. Where several regions may take it, the change counts as of the one that did."""
        change = Change(digest, regions[0] if len(regions) == 1 else "", time.monotonic(), seen=seen or {})
        self.recorder.begin(repository, tag, change)
        attempts_end = 0.0

        def unsure():
            nonlocal attempts_end
            attempts_end = time.monotonic() + ZOMBIE_S
            # Another attempt may go to an edge that has said nothing.
            change.seen = {}

        try:
            answer, region = self.insist(regions, method, target, good, body, edge=edge, unsure=unsure, **headers)
        except GivenUp:
            change.settled = attempts_end
            raise
        change.region = region
        change.settled = max(time.monotonic(), attempts_end)
        if answer.status == 404 and not attempts_end:
            self.recorder.forget(repository, tag, change)
        elif answer.status != 404:
            change.position = position_of(answer)
            change.acknowledged = True
        return change, answer, region

    def seen_by(self, region: str) -> tuple[object, dict[str, int]]:
        """An edge of the region, and what it says that it has of each ledger."""
        edge = self.chance.choice(self.regions.by_name[region].edges)
        try:
            told = self.regions.ledger_of(edge, region)
        except LookupError:
            return None, {}
        return edge, told["seen"] | {f"{told['region']}.{told['incarnation']}": told["seq"]}

    def pull(self, region: str, image: Image, reference: str, **headers: str) -> str | None:
        """Reads an image that must be there, all bytes: its digest. None if it is not served now. A 404 is wrong, and so are bytes that
        are not those that were pushed."""
        answer = self.look(region, image.repository, reference, **headers)
        if answer is None:
            return None
        if answer.status == 404:
            self.recorder.wrong(f"{region}: {image.repository}:{reference} is denied")
            return None
        digest = digest_of(answer.body)
        if digest == image.digest and not all([self._pull_blob(region, image.repository, *blob) for blob in image.blobs.items()]):
            return None
        self.recorder.count("pulls")
        return digest

    def look(self, region: str, repository: str, reference: str, **headers: str) -> Answer | None:
        """A manifest, or 404; None if nobody can tell now."""
        try:
            answer = self.ask(region, "GET", f"/v2/{repository}/manifests/{reference}", **headers)
        except Lost:
            self.recorder.count("lost answers")
            return None
        if answer.status == 503:
            self.recorder.refused("pull", f"{region}: {repository}:{reference}: {answer.body[:300]!r}")
            if not answer.headers["Retry-After"]:
                self.recorder.wrong(f"{region}: {repository}:{reference}: 503 without Retry-After")
            return None
        if answer.status not in (200, 404):
            self.recorder.wrong(f"{region}: {repository}:{reference}: {answer.status} {answer.body[:300]!r}")
            return None
        return answer

    def _pull_blob(self, region: str, repository: str, digest: str, size: int) -> bool:
        try:
            answer = self.ask(region, "GET", f"/v2/{repository}/blobs/{digest}")
        except Lost:
            self.recorder.count("lost answers")
            return False
        if answer.status == 503:
            self.recorder.refused("pull", f"{region}: blob {digest} of {repository}: {answer.body[:300]!r}")
            return False
        if answer.status != 200 or (digest_of(answer.body), len(answer.body)) != (digest, size):
            self.recorder.wrong(f"{region}: blob {digest} of {repository}: {answer.status} {answer.body[:200]!r}")
            return False
        return True

    def close(self) -> None:
        for api in self._apis.values():
            api.close()


class Load:
    """Threads of clients, from `start` to `stop`. `weather()` names what goes on, for the figures."""

    def __init__(self, regions: Regions, recorder: Recorder, seed: int, weather, pause_s: float = 0.5):
        self._regions, self._recorder, self._weather, self._pause_s = regions, recorder, weather, pause_s
        self._stopped = threading.Event()
        self._threads = []
        for number, work in enumerate((Fresh, Moving, Moving, Shared, Shared, Anywhere)):
            worker = work(Client(regions, recorder, f"{seed} {number}"), number, weather)
            self._threads.append(threading.Thread(target=self._run, args=(worker,), daemon=True))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, worker) -> None:
        while not self._stopped.is_set():
            try:
                worker.step()
            except GivenUp:
                self._recorder.count("given up")
            except Exception as fault:  # noqa: BLE001: told with the rest.
                self._recorder.wrong(f"{type(worker).__name__}: {fault!r}")
            self._stopped.wait(worker.client.chance.uniform(0, self._pause_s))
        worker.client.close()


class Worker:
    def __init__(self, client: Client, number: int, weather):
        self.client, self.number, self.weather = client, number, weather
        self.chance, self.recorder, self.names = client.chance, client.recorder, client.regions.names
        self.steps = 0

    def pair(self) -> tuple[str, str]:
        """A region to push to and another one to pull from."""
        one, other = self.chance.sample(self.names, 2)
        return one, other

    def fresh_tag(self) -> str:
        self.steps += 1
        return f"t{self.steps}"


class Fresh(Worker):
    """New names, pulled in another region at once; some are deleted again."""

    def __init__(self, *words):
        super().__init__(*words)
        self._old: list[tuple[Image, str]] = []

    def step(self):
        pushed_in, pulled_in = self.pair()
        tag = self.fresh_tag()
        image, _, _ = self.client.push_image([pushed_in], f"drill/fresh-{self.number}", tag)
        found = self.client.pull(pulled_in, image, tag)
        if found not in (None, image.digest):
            self.recorder.wrong(f"{pulled_in}: {image.repository}:{tag} is {found}, not {image.digest}")
        self._old.append((image, tag))
        if self.chance.random() < 0.15:
            self.client.delete(*self._old.pop(self.chance.randrange(len(self._old))))


class Moving(Worker):
    """Tags that only this client moves, always in the same region: what they must be is known at any time."""

    TAGS = 8

    def __init__(self, *words):
        super().__init__(*words)
        self._history: dict[str, list[tuple[float, str]]] = {}
        self._retired = 0

    def step(self):
        number = self.chance.randrange(self.TAGS)
        home = self.names[number % len(self.names)]
        repository, tag = f"drill/moving-{self.number}", f"m{number}-{self._retired}"
        try:
            image, change, position = self.client.push_image([home], repository, tag)
        except GivenUp:
            self._retired += 1
            raise
        if change.settled > time.monotonic():
            # An attempt that nobody answered may still set it: what these tags must be is no longer known.
            self._retired += 1
            return
        history = self._history.setdefault(tag, [])
        history.append((time.monotonic(), image.digest))
        others = [name for name in self.names if name != home]
        self._pull_with_position(self.chance.choice(others), image, tag, position)
        self._pull_without(self.chance.choice(others), repository, tag, history)

    def _pull_with_position(self, region: str, image: Image, tag: str, position: str) -> None:
        found = self.client.pull(region, image, tag, Outport_Position=position)
        if found not in (None, image.digest):
            self.recorder.wrong(f"{region}: {image.repository}:{tag} at {position} is {found}, not {image.digest}")

    def _pull_without(self, region: str, repository: str, tag: str, history: list[tuple[float, str]]) -> None:
        asked, weather = time.monotonic(), self.weather()
        answer = self.client.look(region, repository, tag)
        if answer is None:
            return
        digest = digest_of(answer.body) if answer.status == 200 else None
        places = [number for number, (_, value) in enumerate(history) if value == digest]
        if not places:
            # The first value of a tag is a new name: it is never denied.
            self.recorder.wrong(f"{region}: {repository}:{tag} is {digest}, which it never was")
            return
        newer = history[places[-1] + 1:]
        self.recorder.stale_s[weather].append(max(0.0, asked - newer[0][0]) if newer else 0.0)


class Shared(Worker):
    """Tags that several clients set in every region, and remove."""

    TAGS = 30
    REPOSITORY = "drill/shared"

    def step(self):
        region, tag = self.chance.choice(self.names), f"s{self.chance.randrange(self.TAGS)}"
        edge, seen = self.client.seen_by(region) if self.chance.random() < 0.5 else (None, {})
        if self.chance.random() < 0.2:
            self.client.untag(region, self.REPOSITORY, tag)
        else:
            self.client.push_image([region], self.REPOSITORY, tag, edge=edge, seen=seen, blobs=1)
        answer = self.client.look(self.chance.choice(self.names), self.REPOSITORY, tag)
        if answer is not None and answer.status == 200:
            digest = digest_of(answer.body)
            if digest not in {change.digest for change in self.recorder.changes(self.REPOSITORY, tag)}:
                self.recorder.wrong(f"{self.REPOSITORY}:{tag} is {digest}, which nobody pushed")


class Anywhere(Worker):
    """Pushes of which every request goes to any region. A retry after 503 goes to any region too."""

    def step(self):
        tag = self.fresh_tag()
        image, _, _ = self.client.push_image(self.names, f"drill/anywhere-{self.number}", tag)
        found = self.client.pull(self.chance.choice(self.names), image, tag)
        if found not in (None, image.digest):
            self.recorder.wrong(f"{image.repository}:{tag} is {found}, not {image.digest}")
