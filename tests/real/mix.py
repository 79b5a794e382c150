"""A mix of pushes by several clients at once that remembers every acknowledgement: what a registry said is done must be done.

Each client has a repository of its own, so that it knows what a tag may be; contents are never pushed twice, so that each key of the
bucket has one reason to be there.
"""

import json
import random
import threading
import time
from collections import Counter

from api import Answer, Api, Lost, digest_of, expect, local, read_whole, with_query
from images import CONFIG, LAYER, MANIFEST

SIZES = (200, 20_000, 40_000, 300_000, 3_000_000)
"""Of layers: both sides of what travels inside the ledger, and larger ones that take a while."""
WEIGHTS = (4, 4, 4, 2, 1)
TAGS = ("latest", "stable")
PIECE_BYTES = 64 * 1024
PAUSE_S = 0.2
"""The longest that a client rests between two images: what is pushed must be read again and again."""
UNAVAILABLE_S = 0.2
"""How long a client waits after 503 and after a lost connection."""


class Wrong(AssertionError):
    """The registry answered what it must not."""


class Pusher:
    """One client. After it has stopped, `manifests`, `blobs` and `tags` are what it knows."""

    def __init__(self, authority: str, repository: str, seed: str, others: "list[Pusher]", stopped: threading.Event):
        self.repository = repository
        self.manifests: list[str] = []
        """Acknowledged."""
        self.blobs: dict[str, int] = {}
        """Acknowledged, with sizes."""
        self.tags: dict[str, set[str | None]] = {}
        """What each tag may be. More than one where an answer was lost; None is no tag."""
        self.tried: set[str] = set()
        """Every digest of a blob that was sent, acknowledged or not."""
        self.told: Counter[str] = Counter()
        """How it went: `lost`, `unavailable`, `resumed`, `begun again`, `mounted`."""
        self._api, self._random = Api(authority), random.Random(seed)
        self._others, self._stopped = others, stopped

    def push_image(self) -> None:
        """Blobs, a manifest, and a tag. It ends with an acknowledgement of each, or with an answer that was lost."""
        blobs = [self._push_blob(size) for size in self._random.choices(SIZES, WEIGHTS, k=self._random.randint(1, 3))]
        if self._random.random() < 0.2:
            blobs += self._mount()
        config = self._push_blob(SIZES[0])
        self._push_manifest({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config, "size": self.blobs[config]},
            "layers": [{"mediaType": LAYER, "digest": digest, "size": self.blobs[digest]} for digest in blobs],
            "annotations": {"org.example.nonce": self._random.randbytes(8).hex()},
        })
        if self._random.random() < 0.1:
            self._untag(self._random.choice(TAGS))

    def _push_manifest(self, manifest: dict) -> None:
        content, tag = json.dumps(manifest).encode(), self._random.choice(TAGS)
        digest = digest_of(content)
        target = f"/v2/{self.repository}/manifests/{tag}"
        if self._random.random() < 0.3:
            target = with_query(f"/v2/{self.repository}/manifests/{digest}", tag=tag)
        if self._change(tag, digest, "PUT", target, 201, body=content, Content_Type=MANIFEST):
            self.manifests.append(digest)

    def _untag(self, tag: str) -> None:
        there = self.tags.get(tag, {None})
        self._change(tag, None, "DELETE", f"/v2/{self.repository}/manifests/{tag}", *((202,) if None not in there else (202, 404)))

    def _change(self, tag: str, to: str | None, method: str, target: str, *good: int, **request) -> bool:
        """Asks for a change of a tag, and remembers what the tag may be after it. Whether it was acknowledged."""
        may_be = self.tags.setdefault(tag, {None})
        may_be.add(to)
        try:
            answer = self._api.ask(method, target, **request)
        except Lost:
            self._wait("lost")
            return False
        if answer.status == 503:
            self._wait("unavailable", answer)
            return False
        self._must(answer, *good)
        self.tags[tag] = {to}
        return True

    def _mount(self) -> list[str]:
        """A blob of another client, if it can be had."""
        other = self._random.choice(self._others)
        known = [*other.blobs]
        if not known:
            return []
        digest = self._random.choice(known)
        try:
            target = with_query(f"/v2/{self.repository}/blobs/uploads/", mount=digest, **{"from": other.repository})
            answer = self._api.ask("POST", target)
        except Lost:
            self._wait("lost")
            return []
        if answer.status != 201:
            # A session instead is allowed; it expires.
            self._must(answer, 202, 503)
            return []
        self.told["mounted"] += 1
        self.blobs[digest] = other.blobs[digest]
        return [digest]

    def _push_blob(self, size: int) -> str:
        """Returns the digest of a blob of about that size once it is there."""
        while True:
            content = self._random.randbytes(self._random.randint(size // 2, size))
            digest = digest_of(content)
            self.tried.add(digest)
            if self._upload(content, digest) or self._landed(digest):
                self.blobs[digest] = len(content)
                return digest
            self.told["begun again"] += 1

    def _landed(self, digest: str) -> bool:
        """Whether a blob is there although nobody acknowledged it."""
        answer = self._insist("HEAD", f"/v2/{self.repository}/blobs/{digest}")
        self._must(answer, 200, 404)
        return answer.status == 200

    def _upload(self, content: bytes, digest: str) -> bool:
        """One session, resumed as often as it is there. Whether the upload was acknowledged."""
        if self._random.random() < 0.2:
            return self._upload_at_once(content, digest)
        session = local(self._must(self._insist("POST", f"/v2/{self.repository}/blobs/uploads/"), 202).headers["Location"])
        offset = 0
        while True:
            try:
                session, offset = self._send(session, content, offset)
                answer = self._api.ask("PUT", with_query(session, digest=digest))
                if answer.status == 201:
                    return True
                self._must(answer, 404, 416, 503)
                if answer.status != 404:
                    self._wait("unavailable", answer)
            except Lost:
                self._wait("lost")
            found = self._resume(session)
            if found is None:
                return False
            session, offset = found

    def _upload_at_once(self, content: bytes, digest: str) -> bool:
        target = with_query(f"/v2/{self.repository}/blobs/uploads/", digest=digest)
        try:
            answer = self._api.ask("POST", target, content, Content_Type="application/octet-stream")
        except Lost:
            self._wait("lost")
            return False
        self._must(answer, 201, 503)
        if answer.status == 503:
            self._wait("unavailable", answer)
        return answer.status == 201

    def _send(self, session: str, content: bytes, offset: int) -> tuple[str, int]:
        """Sends the rest of the content, streamed or in chunks. Returns the session's newest place and how much it has."""
        chunks = 1 if self._random.random() < 0.5 else 3
        step = max(1, -(-(len(content) - offset) // chunks))
        while offset < len(content):
            piece = content[offset:offset + step]
            if chunks == 1:
                answer = self._api.ask("PATCH", session, _pieces(piece), Content_Type="application/octet-stream")
            else:
                span = f"{offset}-{offset + len(piece) - 1}"
                answer = self._api.ask("PATCH", session, piece, Content_Type="application/octet-stream", Content_Range=span)
            if answer.status != 202:
                self._must(answer, 404, 416, 503)
                raise Lost(f"PATCH: {answer.status}")
            session, offset = local(answer.headers["Location"]), offset + len(piece)
            if answer.headers["Range"] != f"0-{offset - 1}":
                raise Wrong(f"{answer.headers['Range']} after {offset} bytes")
        return session, offset

    def _resume(self, session: str) -> tuple[str, int] | None:
        """Where a session stands; None if it is gone."""
        answer = self._insist("GET", session)
        self._must(answer, 204, 404)
        if answer.status == 404:
            return None
        self.told["resumed"] += 1
        # Of a session without any bytes it is 0-0, as it is of one with a single byte.
        last = int(answer.headers["Range"].rpartition("-")[2])
        return local(answer.headers["Location"]), last + 1 if last else 0

    def _insist(self, method: str, target: str) -> Answer:
        """Asks what can be asked again until there is an answer other than 503."""
        while True:
            try:
                answer = self._api.ask(method, target)
            except Lost:
                self._wait("lost")
                continue
            if answer.status != 503:
                return answer
            self._wait("unavailable", answer)

    def _wait(self, what: str, answer: Answer | None = None) -> None:
        if answer is not None and answer.status == 503 and not answer.headers["Retry-After"]:
            raise Wrong("503 without Retry-After")
        self.told[what] += 1
        if self._stopped.wait(UNAVAILABLE_S):
            raise Stopped

    def _must(self, answer: Answer, *statuses: int) -> Answer:
        if answer.status not in statuses:
            raise Wrong(f"{self.repository}: {answer.status} instead of {statuses}: {answer.body[:500]!r}")
        return answer


class Stopped(Exception):
    """The mix has ended, and this client has waited in vain."""


def _pieces(content: bytes):
    return (content[start:start + PIECE_BYTES] for start in range(0, len(content), PIECE_BYTES))


class Mix:
    """Pushers in threads, from `start` to `stop`."""

    def __init__(self, authority: str, seed: int, pushers: int = 4):
        self.pushers: list[Pusher] = []
        self._stopped = threading.Event()
        for number in range(pushers):
            self.pushers.append(Pusher(authority, f"mix/{number}", f"{seed} {number}", self.pushers, self._stopped))
        self._faults: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(pusher,), daemon=True) for pusher in self.pushers]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Lets each client finish its image, and raises what any of them found wrong."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self.raise_faults()
        # What an edge says of a tag rests on a look at the ledger that may be 250 ms old: the last moves are told by then.
        time.sleep(0.5)

    def raise_faults(self) -> None:
        if self._faults:
            raise self._faults[0]

    def _run(self, pusher: Pusher) -> None:
        chance = random.Random(pusher.repository)
        try:
            while not self._stopped.is_set():
                pusher.push_image()
                self._stopped.wait(chance.uniform(0, PAUSE_S))
        except Stopped:
            pass
        except BaseException as fault:  # noqa: BLE001: told by `stop`.
            self._faults.append(fault)
            self._stopped.set()

    def told(self) -> Counter[str]:
        """How it went, all clients together, with the number of images that were acknowledged."""
        return sum((pusher.told for pusher in self.pushers), Counter(images=sum(len(pusher.manifests) for pusher in self.pushers)))

    def check(self, authority: str) -> None:
        """Reads all that was acknowledged, to the last byte, and every tag."""
        api = Api(authority)
        for pusher in self.pushers:
            read: set[str] = set()
            for digest in pusher.manifests:
                read |= read_whole(api, pusher.repository, digest).keys()
            for digest in pusher.blobs.keys() - read:
                blob = expect(api.ask("GET", f"/v2/{pusher.repository}/blobs/{digest}"), 200).body
                assert digest_of(blob) == digest
            for tag, may_be in pusher.tags.items():
                answer = expect(api.ask("GET", f"/v2/{pusher.repository}/manifests/{tag}"), 200, 404)
                found = digest_of(answer.body) if answer.status == 200 else None
                assert found in may_be, (pusher.repository, tag, found, may_be)
        api.close()

    def settle_tags(self, authority: str) -> None:
        """From here on each tag must stay what it is now."""
        api = Api(authority)
        for pusher in self.pushers:
            for tag in pusher.tags:
                answer = expect(api.ask("GET", f"/v2/{pusher.repository}/manifests/{tag}"), 200, 404)
                pusher.tags[tag] = {digest_of(answer.body) if answer.status == 200 else None}
        api.close()
