"""The region's bucket: stores that cannot do what a region needs, and stores that are away for a while."""

import os
import shutil
import time

import pytest

from api import Api, Lost, digest_of, expect, local, push_blob, push_manifest, read_whole, with_query
from edge import REPOSITORY, Edge
from images import CONFIG, LAYER, MANIFEST
from mix import Mix
from processes import run
from region import ANYBODY, Region
from stores import KINDS, Gcs

FULL = bool(os.environ.get("OUTPORT_FULL"))
AWAY_S = 60 if FULL else 15
ANSWER_S = 15
"""No client waits longer for its 503."""
RECOVERY_S = 30
SEED = 5


@pytest.fixture
def start_store(tmp_path):
    """A store of this check alone: `start_store(kind)`."""
    started = []

    def start(kind: str, **options):
        started.append(KINDS[kind](tmp_path / f"store-{kind}", **options))
        return started[-1]

    yield start
    for store in started:
        store.stop()


def push_image(api: Api, repository: str, tag: str, sizes: tuple[int, ...]) -> str:
    """An image of layers with these sizes; returns its digest."""
    layers = [os.urandom(size) for size in sizes]
    config = os.urandom(100)
    return push_manifest(api, repository, tag, {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": push_blob(api, repository, config), "size": len(config)},
        "layers": [{"mediaType": LAYER, "digest": push_blob(api, repository, layer), "size": len(layer)} for layer in layers],
    })


@pytest.mark.parametrize("kind", KINDS)
def test_the_bucket_rooms_own_suite(kind, stores):
    """What the crate's tests run over memory and folders, over a real server."""
    store = stores(kind)
    named = ";".join([store.url("conformance"), *(f"{name}={value}" for name, value in store.all_options().items())])
    words = ("cargo", "test", "--locked", "--lib", "the_named_bucket_conforms")
    assert "2 passed" in run(*words, cwd=REPOSITORY, env=os.environ | {"OUTPORT_TEST_BUCKET": named})
    assert store.unfinished("conformance") == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "local"])
def test_a_store_that_is_gone_for_a_while(kind, start_store, start_region):
    store = start_store(kind)
    endure(store, start_region(store, seed=SEED), store.go)


def test_a_store_that_hangs_for_a_while(start_store, start_region):
    store = start_store("s3")
    endure(store, start_region(store, seed=SEED), store.hang)


def test_a_folder_that_is_gone_for_a_while(start_store, start_region):
    """As when a volume is unmounted: an empty folder is not an empty registry."""
    store = start_store("local")
    endure(store, start_region(store, seed=SEED), store.go)


def endure(store, region: Region, go) -> None:
    """A region through an outage of its store, with a mix of pushes going on all the time."""
    digest = push_image(Api(region.plain.authority), "kept/image", "v1", (300, 50_000, 2_000_000))
    for edge in region.edges:
        read_whole(Api(edge.plain), "kept/image", "v1")
    mix = Mix(region.plain.authority, SEED, pushers=2)
    mix.start()
    time.sleep(1)
    go()
    try:
        until = time.monotonic() + AWAY_S
        while time.monotonic() < until:
            for edge in region.edges:
                reads_go_on(edge, digest)
                pushes_are_refused(edge)
                the_unknown_is_not_denied(edge)
            mix.raise_faults()
            time.sleep(0.5)
    finally:
        store.come_back()
    recovered = time.monotonic() + RECOVERY_S
    for edge in region.edges:
        while not try_to_push(edge):
            assert time.monotonic() < recovered, "it did not recover by itself"
            time.sleep(0.5)
    acknowledged = mix.told()["images"]
    time.sleep(2)
    mix.stop()
    assert mix.told()["images"] > acknowledged, "the clients that had waited go on"
    for edge in region.edges:
        assert read_whole(Api(edge.plain), "kept/image", "v1")
        mix.check(edge.plain)


def reads_go_on(edge: Edge, digest: str) -> None:
    """What an edge has, it serves: to the last byte."""
    api = Api(edge.plain)
    started = time.monotonic()
    read_whole(api, "kept/image", digest)
    read_whole(api, "kept/image", "v1")
    assert time.monotonic() - started < ANSWER_S


def pushes_are_refused(edge: Edge) -> None:
    """Somewhere between POST and the end it is 503 with Retry-After, in time; never 201."""
    api, content = Api(edge.plain), os.urandom(40_000)
    started = time.monotonic()
    answer = expect(api.ask("POST", "/v2/refused/image/blobs/uploads/"), 202, 503)
    if answer.status == 202:
        session = with_query(local(answer.headers["Location"]), digest=digest_of(content))
        answer = expect(api.ask("PUT", session, content, Content_Type="application/octet-stream"), 503)
    assert int(answer.headers["Retry-After"]) > 0
    assert time.monotonic() - started < ANSWER_S


def the_unknown_is_not_denied(edge: Edge) -> None:
    """Whether a tag was pushed at the other edge just now, nobody can tell."""
    started = time.monotonic()
    expect(Api(edge.plain).ask("GET", "/v2/kept/image/manifests/unknown"), 503)
    assert time.monotonic() - started < ANSWER_S


def try_to_push(edge: Edge) -> bool:
    try:
        push_image(Api(edge.plain), f"after/{edge.plain.rpartition(':')[2]}", "v1", (100, 50_000))
    except (AssertionError, Lost):
        return False
    return True


def test_a_store_that_refuses_is_told_and_keeps_no_edge_from_starting(start_store, tmp_path):
    """fake-gcs-server as it is cannot be written to through the XML API: pushes are refused at once, and the edge says why."""
    store: Gcs = start_store("gcs", native=True)
    edge = Edge(tmp_path, ANYBODY + store.table("refused"))
    try:
        answer = edge.get("/v2/a/b/blobs/uploads/", method="POST")
        assert answer.status == 503 and answer.headers["Retry-After"]
        assert b"bucket" in edge.get(f"http://{edge.ops}/readyz?deep=1").body
        assert "the bucket cannot be opened yet" in edge.process.log.read_text()
    finally:
        edge.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_edges_without_anything_on_disk_find_everything_in_the_bucket(kind, stores, start_region):
    region = start_region(stores(kind), seed=SEED)
    digest = push_image(Api(region.plain.authority), "found/image", "v1", (300, 50_000, 20_000_000))
    for edge in region.edges:
        assert edge.stop() == 0
        shutil.rmtree(edge.data)
    for edge in region.edges:
        edge.start()
        assert next(iter(read_whole(Api(edge.plain), "found/image", "v1"))) == digest
    assert region.store.unfinished(region.prefix) == []
