"""The rows of the table about what is not cached yet: far and near images, one blob for many clients."""

from contextlib import contextmanager
from pathlib import Path

import bench
import loads
from edge import UPSTREAM
from peers import Varnish
from place import Place, costing
from rows_warm import REGISTRY, tell
from table import Line, alternate, figures, ratios


def words_of(prefix: str, image, *more) -> tuple:
    return ("--repository", f"{prefix}{image.repository}", "--reference", image.tag, *more)


def far(place: Place) -> list[Line]:
    """Images and blobs over the long link, directly and through an edge at its near end."""
    with bench.namespaces("near", "far") as (near, far), bench.link(near, far):

        def compared(store: Path, *words: str, repository: str) -> dict[str, list]:
            with place.origin(store, address=bench.FAR_ADDRESS, around=far.inside) as origin:

                def direct() -> dict:
                    return loads.pull(origin.authority, "--repository", repository, *words, around=near.inside)

                def via_edge() -> dict:
                    with bench.cold_edge(place.new_folder("edge"), origin.url, near.inside) as edge:
                        return loads.pull(edge.plain, "--repository", f"{UPSTREAM}/{repository}", *words, around=near.inside)

                direct()  # The origin is warm from here on.
                return alternate(place.pairs, direct=direct, edge=via_edge)

        image = place.images.many_large_layers
        found = compared(place.images.store, "--reference", image.tag, repository=image.repository)
        tell(f"far cold image of {len(image.blobs)} blobs, 3 at a time: seconds", found, {"seconds": (1, ".2f")})
        times = ratios(found["edge"], found["direct"], "seconds")
        lines = [Line("far cold image of many layers: time", "direct pull", times, most=0.75, form=".3f")]

        blob = place.content.blobs["large" if place.long else "shared"]
        found = compared(place.content.store, "--blob", blob.digest, repository=blob.repository)
        tell("far cold blob: seconds, and ms to the first byte", found, {"seconds": (1, ".3f"), "first_byte_ms": (1, ".1f")})
        later = [edge["first_byte_ms"] - direct["first_byte_ms"] for edge, direct in zip(found["edge"], found["direct"], strict=True)]
        size, times = f"{blob.size / 1e6:.0f} MB", ratios(found["edge"], found["direct"], "seconds")
        return [
            *lines,
            Line("far cold blob: time", "direct", times, most=1.03, form=".3f", note=size),
            Line("far cold blob: first byte later", "direct", later, most=10, form=".1f", unit="ms", note=size),
        ]


def near(place: Place) -> list[Line]:
    """Whole images on loopback, for a client that verifies as engines do; and one blob by what it costs."""
    lines = []
    with place.origin(place.images.store) as origin:
        for title, image in (("image of Debian", place.images.debian), ("image of one layer", place.images.blob)):

            def direct():
                return loads.pull(origin.authority, *words_of("", image, "--bodies", "verify"))

            def via_edge():
                with bench.cold_edge(place.new_folder("edge"), origin.url, ()) as edge:
                    return costing(edge.process, lambda: loads.pull(edge.plain, *words_of(f"{UPSTREAM}/", image, "--bodies", "verify")))

            def via_varnish():
                with varnish(place, origin.authority) as cache:
                    return loads.pull(cache.plain, *words_of("", image, "--bodies", "verify"))

            direct()
            found = alternate(place.pairs, direct=direct, varnish=via_varnish, edge=via_edge)
            size = f"{image.size_bytes / 1e6:.0f} MB"
            tell(f"loopback, cold, {title}, {size}: seconds", found, {"seconds": (1, ".3f")})
            for other, name, most in (("direct", "direct", 2.0), ("varnish", "Varnish", 1.3)):
                times = ratios(found["edge"], found[other], "seconds")
                lines.append(Line(f"loopback cold {title}: time", name, times, most=most, note=size))
    return lines


def cold_blob_cost(place: Place) -> list[Line]:
    """Processor seconds for a GB of a cold blob that is verified and kept."""
    blob = place.content.blobs["large"]
    with place.origin() as origin:

        def via_edge():
            with bench.cold_edge(place.new_folder("edge"), origin.url, ()) as edge:
                words = ("--repository", f"{UPSTREAM}/{blob.repository}", "--blob", blob.digest)
                return costing(edge.process, lambda: loads.pull(edge.plain, *words))

        def via_registry():
            folder = place.new_folder("mirror")
            with mirror(place, folder, origin.url) as registry:
                words = ("--repository", blob.repository, "--blob", blob.digest)
                return costing(registry.process, lambda: loads.pull(registry.authority, *words))

        found = alternate(place.pairs, registry=via_registry, edge=via_edge)
    tell("cold blob: processor seconds for a GB, and seconds", found, {"processor_s_per_gb": (1, ".2f"), "seconds": (1, ".2f")})
    shares = ratios(found["edge"], found["registry"], "processor_s_per_gb")
    return [
        Line("cold blob, verified: processor seconds for a GB", "a bare tee with SHA-256, 1.63 where the targets were set",
             figures(found["edge"], "processor_s_per_gb"), most=1.65),
        Line("the same over that of docker-registry 2.8 as a mirror", REGISTRY, shares),
    ]


@contextmanager
def mirror(place: Place, folder: Path, origin_url: str):
    """A docker-registry that pulls through."""
    with place.origin(folder / "store", writable=True, auth=f"proxy: {{remoteurl: {origin_url}}}\n") as registry:
        try:
            yield registry
        finally:
            bench.forget(folder)


@contextmanager
def varnish(place: Place, origin: str, **options):
    folder = place.new_folder("varnish")
    started = Varnish(origin, folder, **options)
    try:
        yield started
    finally:
        started.stop()
        bench.forget(folder)


def crowds(place: Place) -> list[Line]:
    """Many clients of one blob that is far away and not cached."""
    lines, blob = [], place.content.blobs["shared"]
    path = f"{blob.repository}/blobs/{blob.digest}"
    with bench.namespaces("near", "far") as (near, far), bench.link(near, far), \
            place.origin(address=bench.FAR_ADDRESS, around=far.inside) as origin:

        def asked() -> int:
            return sum(each.method == "GET" and each.path.endswith(blob.digest) for each in origin.settled())

        def crowd(address: str, prefix: str, clients: int) -> dict:
            before = asked()
            taken = loads.drain(address, f"/v2/{prefix}{path}", place.folder, requests=clients, connections=clients, around=near.inside)
            return {"seconds": taken["seconds"], "asked": asked() - before, "first_ms": taken["first_byte_ms"]["p50"],
                    "late_ms": taken["first_byte_ms"]["p99"]}

        def via_edge(clients: int) -> dict:
            with bench.cold_edge(place.new_folder("edge"), origin.url, near.inside) as edge:
                return crowd(edge.plain, f"{UPSTREAM}/", clients)

        def via_varnish(clients: int) -> dict:
            with varnish(place, origin.authority, around=near.inside) as cache:
                return crowd(cache.plain, "", clients)

        for clients in (32, 1000 if place.long else 200):
            found = alternate(place.pairs, varnish=lambda: via_varnish(clients), edge=lambda: via_edge(clients))
            tell(f"{clients} cold clients of one far blob: seconds, upstream GETs, ms to the first byte: p50, p99", found,
                 {"seconds": (1, ".2f"), "asked": (1, ".0f"), "first_ms": (1, ".0f"), "late_ms": (1, ".0f")})
            what, note = f"{clients} cold clients of one blob", "" if clients in (32, 1000) else "in place of 1,000"
            lines += [
                Line(f"{what}: upstream GETs", "-", figures(found["edge"], "asked"), least=1, most=1, form=".0f", note=note),
                Line(f"{what}: first byte, p50", "Varnish", ratios(found["edge"], found["varnish"], "first_ms"), most=1.0, note=note),
                Line(f"{what}: first byte, p99", "Varnish", ratios(found["edge"], found["varnish"], "late_ms"), most=1.0, note=note),
                Line(f"{what}: done", "Varnish", ratios(found["edge"], found["varnish"], "seconds"), most=1.05, form=".3f", note=note),
            ]
    return lines
