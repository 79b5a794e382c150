"""The rows of the table about what is written: pushes, and copies between regions."""

import json
import time

import bench
from api import Api, push_blob
from edge import Edge
from network import MBIT_PER_S, Network, Site
from origin import Distribution
from place import Place, costing
from processes import run
from regions import Regions
from rows_warm import INSTEAD, REGISTRY, tell
from stores import Local
from table import Line, alternate, figures, ratios

lag = bench.script("lag")
MEBIBYTE = 1 << 20
SMALL_BLOBS, SMALL_BYTES = 200, 10 * 1024
LAG = {"round_trip_ms": 80, "per_s": 10}
LAG_MOST_S = 1.0
"""As `tests/bench/lag` has it."""
COPIED_BYTES = 128 * MEBIBYTE


def pushes(place: Place) -> list[Line]:
    seeds = iter(range(1, 10**6))

    def push(server, address: str, words: tuple) -> dict:
        words = ("--address", address, "--repository", "team/pushed", "--seed", next(seeds), *words)
        pushed = costing(server, lambda: bench.tool("push", *words))
        return pushed | {"processor_ms_per_blob": pushed["processor_s"] * 1e3 / pushed["blobs"]}

    def to_registry(*words) -> dict:
        folder = place.new_folder("registry")
        registry = Distribution(folder / "store", folder, writable=True)
        try:
            return push(registry.process, registry.authority, words)
        finally:
            registry.stop()
            bench.forget(folder)

    def to_edge(*words) -> dict:
        folder = place.new_folder("edge")
        edge = Edge(folder, f'[access]\nanonymous_push = ["**"]\n[bucket]\nurl = "file://{folder}/bucket"\n')
        try:
            return push(edge.process, edge.plain, words)
        finally:
            edge.stop()
            bench.forget(folder)

    lines, size = [], (512 if place.long else 256) * MEBIBYTE
    for way, title in (("put", "at once"), ("patch", "by PATCH")):
        words = ("--layers", 1, "--layer-bytes", size, "--way", way)
        found = alternate(place.pairs, registry=lambda: to_registry(*words), edge=lambda: to_edge(*words))
        tell(f"push of {size // MEBIBYTE} MiB, {title}: processor seconds for a GB, and seconds", found,
             {"processor_s_per_gb": (1, ".2f"), "seconds": (1, ".2f")})
        lines.append(Line(f"push of a large blob, {title}: processor time for a GB", REGISTRY,
                          ratios(found["edge"], found["registry"], "processor_s_per_gb"), most=0.35, form=".3f"))
    words = ("--layers", SMALL_BLOBS, "--layer-bytes", SMALL_BYTES)
    found = alternate(place.pairs, registry=lambda: to_registry(*words), edge=lambda: to_edge(*words))
    tell(f"push of {SMALL_BLOBS} blobs of {SMALL_BYTES} bytes: processor milliseconds for each, and seconds", found,
         {"processor_ms_per_blob": (1, ".2f"), "seconds": (1, ".2f")})
    lines.append(Line(f"push of {SMALL_BLOBS} small blobs with fsync: processor time", f"{REGISTRY} without fsync",
                      ratios(found["edge"], found["registry"], "processor_ms_per_blob"), most=0.25, form=".3f", note=INSTEAD))
    return lines


def replication(place: Place) -> list[Line]:
    rates = [copied(place, number) for number in range(place.pairs if place.long else 1)]
    seconds = 30 if place.long else 8
    lags, lost = lag.measure(LAG["round_trip_ms"], LAG["per_s"], seconds)
    what = f"replication over {LAG['round_trip_ms']} ms, {LAG['per_s']} pushes a second"
    middle, late = (lag.at(lags.metadata_s, share) for share in (0.5, 0.99))
    print(f"\n{what}: metadata p50 {middle:.3f} s, p99 {late:.3f} s, not arrived {lost}", flush=True)
    return [
        Line(f"replication of {COPIED_BYTES // MEBIBYTE} MiB: rate while bytes flow", f"the link's {MBIT_PER_S} Mbit/s", figures(rates, "flowing"),
             least=0.9, form=".3f"),
        Line("the same from the answer to the push to the last byte on the disk", f"the link's {MBIT_PER_S} Mbit/s", figures(rates, "whole"),
             form=".3f"),
        Line(f"{what}: metadata lag, p99", "-", [late], most=LAG_MOST_S, form=".3f", unit="s"),
        Line(f"{what}: pushes that did not arrive", "-", [lost], most=0, form=".0f"),
    ]


def share_of_link(size_bytes: float, seconds: float) -> float:
    return size_bytes * 8 / 1e6 / seconds / MBIT_PER_S


def received_bytes(site: Site) -> int:
    """By its links, so far."""
    links = json.loads(run(*site.inside, "ip", "-json", "-statistics", "link"))
    return sum(link["stats64"]["rx"]["bytes"] for link in links if link["ifname"] != "lo")


def copied(place: Place, number: int) -> dict:
    """The share of the link's rate at which layers reach the other region's own store: from the answer to their push on, and while they
    flow, from a tenth of the bytes to nine."""
    folder = place.new_folder("regions")
    network = Network()
    stopping = [network.remove]
    try:
        sites = {name: network.add(name) for name in ("near", "far")}
        network.join(sites["near"], sites["far"], LAG["round_trip_ms"])
        stores = {name: Local(folder / f"store-{name}") for name in sites}
        regions = Regions(folder / "edges", stores, sites, edges=1, tables=lag.TABLES)
        stopping.insert(0, regions.stop)
        near, far = (regions.by_name[name] for name in ("near", "far"))
        # Layers of one size, in parallel: each copy has a stream of its own.
        words = ("--layers", 8, "--layer-bytes", COPIED_BYTES // 8, "--way", "put", "--seed", number + 1)
        api = Api(near.edges[0].plain)
        push_blob(api, lag.REPOSITORY, b"the regions know each other")
        time.sleep(lag.SETTLE_S)
        bench.tool("push", "--address", near.edges[0].plain, "--repository", lag.REPOSITORY, *words)
        pushed, until = time.time(), time.monotonic() + 120
        received = [(time.monotonic(), received_bytes(sites["far"]))]
        while True:
            complete = [each for each in far.store.completed(far.prefix).values() if each[0] == COPIED_BYTES // 8]
            if len(complete) == 8:
                break
            assert time.monotonic() < until, f"{len(complete)} of 8 layers have arrived"
            time.sleep(0.1)
            received.append((time.monotonic(), received_bytes(sites["far"])))
        seconds = max(at for _, at in complete) - pushed
        first, last = received[0][1], received[-1][1]
        flowing = [(at, count) for at, count in received if 0.1 <= (count - first) / (last - first) <= 0.9]
        (begin, before), (end, after) = flowing[0], flowing[-1]
        # Of what is received a part is heads of packets.
        payload = COPIED_BYTES / (last - first)
        return {"whole": share_of_link(COPIED_BYTES, seconds), "flowing": share_of_link((after - before) * payload, end - begin)}
    finally:
        for stop in stopping:
            stop()
        bench.forget(folder)
