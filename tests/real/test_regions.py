"""Three regions of two edges: what is pushed in one can be pulled in all, at once and lastingly, whatever breaks meanwhile."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from api import Api, digest_of, read_whole
from drill import Drill
from load import Client, GivenUp
from network import Network
from recorder import Change, Image, Recorder
from regions import Regions
from stores import S3, Azure, Local

FULL = bool(os.environ.get("OUTPORT_FULL"))
SEED = int(os.environ.get("OUTPORT_SEED", "1"))
NAMES = ("eu", "us", "ap")
CASES = 1000 if FULL else 250
CLIENTS = 8
FOLLOW_INTERVAL_S = 1.0
"""The default of `replication.follow_interval`."""
ROUND_TRIPS_MS = {("eu", "us"): 80, ("us", "ap"): 150, ("ap", "eu"): 220}
CUT_S = 600 if FULL else 60
LOST_AFTER_S, LOST_FOR_S = 5, 8
"""Cut off before it is declared lost, and from then on."""


@pytest.fixture(scope="module")
def regions(tmp_path_factory):
    """On this machine's loopback, each with a folder as its store: nothing is slow but the edges themselves."""
    folder = tmp_path_factory.mktemp("regions")
    stores = {name: Local(folder / f"store-{name}") for name in NAMES}
    started = Regions(folder / "edges", stores, seed=SEED)
    started.settle()
    yield started
    started.stop()
    for store in stores.values():
        store.stop()


@pytest.fixture
def recorder(regions, logs):
    logs.extend(regions.logs())
    return Recorder()


def change(digest, region, began, settled=None, position=None, seen=None) -> Change:
    """Acknowledged if it has settled."""
    return Change(digest, region, began, settled or float("inf"), settled is not None, position, seen or {})


@pytest.mark.parametrize(
    ("changes", "possible"),
    [
        # One region after itself: the last one counts.
        ([change("a", "eu", 1, 2), change("b", "eu", 3, 4)], {"b"}),
        ([change("a", "eu", 1, 2), change(None, "eu", 3, 4)], {None}),
        # At the same time, or in two regions of which neither had seen the other: either.
        ([change("a", "eu", 1, 4), change("b", "eu", 3, 5)], {"a", "b"}),
        ([change("a", "eu", 1, 2, ("eu.1", 7)), change("b", "us", 3, 4, ("us.1", 9), {"eu.1": 6})], {"a", "b"}),
        # Another region that had seen it supersedes it.
        ([change("a", "eu", 1, 2, ("eu.1", 7)), change("b", "us", 3, 4, ("us.1", 9), {"eu.1": 7})], {"b"}),
        ([change("a", "eu", 1, 2, ("eu.1", 7)), change(None, "us", 3, 4, ("us.1", 9), {"eu.1": 8})], {None}),
        # What nobody acknowledged may be there or not, and supersedes nothing.
        ([change("a", "eu", 1)], {"a", None}),
        ([change("a", "eu", 1, 2), change("b", "eu", 3)], {"a", "b"}),
        # Its attempts may still have had their effect when the next one began.
        ([change("a", "eu", 1, 9), change("b", "eu", 3, 4)], {"a", "b"}),
    ],
)
def test_what_a_tag_may_be(changes, possible):
    """The drill's own rule: one that allowed everything would find nothing."""
    recorder = Recorder()
    for each in changes:
        recorder.begin("a/b", "t", each)
    assert recorder.possible("a/b", "t") == possible


def each_of_many(regions: Regions, recorder: Recorder, case, cases: int = CASES) -> None:
    """Runs `case(client, number)` so many times in a few clients at once. Nothing is in the way, so nothing may fail, not even for a
    while."""

    def share(first: int) -> None:
        client = Client(regions, recorder, f"{SEED} {case.__name__} {first}")
        for number in range(first, cases, CLIENTS):
            try:
                case(client, number)
            except GivenUp:
                recorder.count("given up")
        client.close()

    with ThreadPoolExecutor(CLIENTS) as clients:
        for done in [clients.submit(share, first) for first in range(CLIENTS)]:
            done.result()
    assert not recorder.wrongs, "\n".join(recorder.wrongs)
    assert not recorder.refusals, "\n".join(recorder.refusals)
    assert {what: count for what, count in recorder.told.items() if what.startswith(("lost", "uploads begun", "given up"))} == {}
    assert recorder.told["pushes"] == cases


def must_be(recorder: Recorder, found: str | None, image: Image, what: str) -> None:
    """What was pulled; that nothing was is told already."""
    if found not in (None, image.digest):
        recorder.wrong(f"{what}: {image.repository} has {found} instead of {image.digest}")


def test_new_names_are_there_in_every_region_at_once(regions, recorder):
    """Pulled in another region right after the 201, without a position."""

    def push_and_pull(client: Client, number: int) -> None:
        pushed_in, pulled_in = client.chance.sample(NAMES, 2)
        image, _, _ = client.push_image([pushed_in], f"new/names-{number % CLIENTS}", f"n{number}", blobs=1)
        must_be(recorder, client.pull(pulled_in, image, f"n{number}"), image, "a new name")

    each_of_many(regions, recorder, push_and_pull)
    assert recorder.told["pulls"] == CASES


def test_moved_tags_are_new_with_their_position_and_soon_without(regions, recorder, capsys):
    """With the position that the push had told: in another region at once. Without: in the third one, within the published interval."""
    tags = 10
    stale_s = []

    def move_and_pull(client: Client, number: int) -> None:
        # Each client has tags of its own and moves them in turn.
        own = number % CLIENTS
        repository, tag = f"moved/tags-{own}", f"m{number // CLIENTS % tags}"
        regions_in_turn = [NAMES[(own + turn) % len(NAMES)] for turn in range(len(NAMES))]
        pushed_in, with_position, without = regions_in_turn
        before = client.look(without, repository, tag) if number >= CLIENTS * tags else None
        image, _, position = client.push_image([pushed_in], repository, tag, blobs=1)
        acknowledged = time.monotonic()
        must_be(recorder, client.pull(with_position, image, tag, Outport_Position=position), image, f"at {position}")
        while True:
            asked = time.monotonic()
            found = client.look(without, repository, tag)
            digest = digest_of(found.body)
            if digest == image.digest:
                break
            assert before is None or digest == digest_of(before.body), "neither the new value nor the one before it"
            assert asked - acknowledged < 10 * FOLLOW_INTERVAL_S
            stale_s.append(asked - acknowledged)
            time.sleep(0.02)

    each_of_many(regions, recorder, move_and_pull)
    assert recorder.told["pulls"] == CASES
    with capsys.disabled():
        print(f"\nmoved tags: {CASES}, {len(stale_s)} reads of an old value, the latest {max(stale_s, default=0):.3f} s after the 201")
    assert max(stale_s, default=0) <= FOLLOW_INTERVAL_S


def test_pushes_whose_requests_go_to_any_region(regions, recorder):
    def push_anywhere(client: Client, number: int) -> None:
        image, _, _ = client.push_image([*NAMES], f"any/where-{number % CLIENTS}", f"a{number}", blobs=1)
        must_be(recorder, client.pull(client.chance.choice(NAMES), image, f"a{number}"), image, "pushed anywhere")

    each_of_many(regions, recorder, push_anywhere)


def test_a_region_whose_edges_are_gone_is_read_from_its_store_and_never_denied(regions, recorder):
    """Its edges are stopped right after they took pushes; then its store is gone too."""
    client, lost = Client(regions, recorder, "gone"), regions.by_name["ap"]
    images = [client.push_image(["ap"], "gone/region", f"g{number}", blobs=2)[0] for number in range(5)]
    reader = Api(regions.by_name["eu"].edges[0].plain)
    for edge in lost.edges:
        edge.stop()
    try:
        for number, image in enumerate(images):
            in_time(lambda number=number, image=image: is_whole(reader, image, f"g{number}"))
        lost.store.go()
        try:
            in_time(lambda: client.ask("us", "GET", "/v2/gone/region/manifests/unknown").status == 503)
            for name in ("eu", "us"):
                assert client.ask(name, "GET", "/v2/gone/region/manifests/unknown").headers["Retry-After"]
                # Who may push only looks whether it must.
                assert client.ask(name, "HEAD", "/v2/gone/region/manifests/unknown").status == 404
                assert client.ask(name, "HEAD", f"/v2/gone/region/blobs/{digest_of(b'never pushed')}").status == 404
                client.push_image([name], f"gone/{name}", "new", blobs=1)
            # What an edge has read it has; in us nobody has read anything, and where the bytes are is known: they cannot be had now.
            assert all(is_whole(reader, image, image.digest) for image in images)
            read_nowhere = max((size, digest) for image in images for digest, size in image.blobs.items())[1]
            assert client.ask("us", "GET", f"/v2/gone/region/blobs/{read_nowhere}").status == 503
        finally:
            lost.store.come_back()
    finally:
        for edge in lost.edges:
            edge.start()
    in_time(lambda: all(client.pull("us", image, image.digest) == image.digest for image in images))
    client.close()
    assert not recorder.wrongs, "\n".join(recorder.wrongs)


def is_whole(api: Api, image: Image, reference: str) -> bool:
    try:
        return next(iter(read_whole(api, image.repository, reference))) == image.digest
    except AssertionError as not_now:
        # The status is the first of what `expect` tells.
        if not_now.args[0][0] != 503:
            raise
        return False


def in_time(done, timeout_s: float = 30) -> None:
    until = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_the_drill(tmp_path, logs, capsys):
    """Regions in networks of their own, over long links that break, with edges killed all the time, and each with a store of its own
    kind; one region is cut off for a while, and all go on; then it is declared lost, and comes back with what it had."""
    network = Network()
    stopping = [network.remove]
    try:
        sites = {name: network.add(name) for name in NAMES}
        for (one, other), round_trip_ms in ROUND_TRIPS_MS.items():
            network.join(sites[one], sites[other], round_trip_ms)
        stores = {}
        for name, make in zip(NAMES, (S3, Azure, lambda folder, _: Local(folder)), strict=True):
            stores[name] = make(tmp_path / f"store-{name}", sites[name])
            stopping.insert(0, stores[name].stop)
        regions = Regions(tmp_path / "edges", stores, sites, seed=SEED, tables='[[hosted]]\npattern = "drill/fresh-*"\nreplicate = "all"\n')
        stopping.insert(0, regions.stop)
        logs.extend(regions.logs())
        drill = Drill(regions, network, sites, SEED)
        eu, us, ap = (sites[name] for name in NAMES)
        with drill.under_load():
            time.sleep(3)
            drill.break_links("links that lost one direction for 5 s", lambda: network.lose(eu, us), 5)
            time.sleep(6)
            drill.break_links("links that refused connections for 5 s", lambda: network.refuse(us, ap), 5)
            time.sleep(6)
            drill.break_links(f"regions cut off for {CUT_S} s", lambda: network.isolate(ap), CUT_S, cut_off="ap")
            time.sleep(6)
            drill.lose_region("ap", "eu", LOST_AFTER_S, LOST_FOR_S)
            time.sleep(6)
        drill.check()
        with capsys.disabled():
            print(f"\n{drill.report()}")
        assert not drill.recorder.wrongs, "\n".join(drill.recorder.wrongs)
        # A cut under load makes some, and every edge counts the same.
        assert 0 < drill.told_conflicts <= len(drill.conflicts)
        # At least one push a second, all the time.
        assert drill.recorder.told["pushes"] > CUT_S
    finally:
        for stop in stopping:
            stop()
