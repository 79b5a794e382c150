"""kill -9 of either edge of a region at random points of a mix of pushes."""

import os
import random
import shutil
import signal
import time

import pytest

from api import Api, digest_of
from mix import Mix
from region import Region

FULL = bool(os.environ.get("OUTPORT_FULL"))
KILLS = 500 if FULL else 25
SEED = int(os.environ.get("OUTPORT_SEED", "1"))
BETWEEN_S = (0.05, 1.0)
DEAD_S = 0.5
UPLOAD_TTL_S = 5
SWEPT_S = 60
"""How long after their time to live keys without a name may still be there."""


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_nothing_acknowledged_is_lost(kind, stores, start_region):
    region = start_region(stores(kind), seed=SEED, limits={"upload_ttl": f"{UPLOAD_TTL_S}s"})
    mix = Mix(region.plain.authority, SEED)
    mix.start()
    kill_again_and_again(region, mix)
    mix.stop()
    print(f"seed {SEED}: {dict(mix.told())}")
    assert mix.told()["images"] >= KILLS

    for edge in region.edges:
        mix.check(edge.plain)
    mix.settle_tags(region.edges[0].plain)
    with_nothing_but_the_bucket(region)
    for edge in region.edges:
        mix.check(edge.plain)
    assert leaks_in_the_end(region, mix) == []


def kill_again_and_again(region: Region, mix: Mix) -> None:
    """Never both at once: what a client cannot send to one edge, it sends to the other."""
    chance = random.Random(SEED)
    for _ in range(KILLS):
        time.sleep(chance.uniform(*BETWEEN_S))
        edge = chance.choice(region.edges)
        assert edge.stop(signal.SIGKILL) == -signal.SIGKILL, "it ended before"
        time.sleep(chance.uniform(0, DEAD_S))
        edge.start()
        mix.raise_faults()


def with_nothing_but_the_bucket(region: Region) -> None:
    """Starts the edges anew without anything on their own disks: the index is rebuilt from the ledger."""
    for edge in region.edges:
        assert edge.stop() == 0
        shutil.rmtree(edge.data)
    for edge in region.edges:
        edge.start()


def leaks_in_the_end(region: Region, mix: Mix) -> list[str]:
    """Keys of the bucket that hold no blob of any repository, once uploads have expired and a sweep had its time."""
    deadline = time.monotonic() + UPLOAD_TTL_S + SWEPT_S
    named: dict[str, str] = {}
    while (found := leaks(region, mix, named)) and time.monotonic() < deadline:
        time.sleep(1)
    return found


def leaks(region: Region, mix: Mix, named: dict[str, str]) -> list[str]:
    """`named` are digests with the key that holds each, kept from one look to the next."""
    api = Api(region.edges[0].plain)
    owners = {digest: pusher.repository for pusher in mix.pushers for digest in pusher.tried}
    found = []
    known = set(named.values())
    for key in region.keys():
        if "/blobs/" not in key or key in known:
            continue
        try:
            digest = digest_of(region.store.read(region.prefix, key))
        except LookupError:
            # Swept since it was listed.
            continue
        # Each content is pushed once: a second key of it is one too many.
        owner = owners.get(digest) if digest not in named else None
        if owner and api.ask("HEAD", f"/v2/{owner}/blobs/{digest}").status == 200:
            named[digest] = key
        else:
            found.append(key)
    api.close()
    # What a killed process has begun at S3 is for a lifecycle rule of the bucket; on a file system nobody else would clear it away.
    return found + (region.store.unfinished(region.prefix) if region.store.kind == "local" else [])
