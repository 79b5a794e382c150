"""The rows of the table about what is cached: blobs, manifests, latency under load. One core for the server, the other for the client."""

import subprocess

import bench
import loads
from content import Content
from place import Place, blob_path, cached_file, costing, manifest_path, token
from table import Line, alternate, figures, ratios

NGINX = "nginx"
REGISTRY = "docker-registry 2.8"
INSTEAD = "2.8 in place of 3, which has no package"
UNRECORDED = '[audit]\nenabled = false\n[log]\nlevel = "warn"\n'
"""nginx, beside which manifests are measured, keeps no log either."""
ACCEPT = "application/vnd.oci.image.manifest.v1+json"
UNKNOWN = {"X_Other": "1"}
"""With such a header no head is known by its bytes: each request is read."""


def warm_blobs(place: Place) -> list[Line]:
    blob, requests = place.content.blobs["large"], 48 if place.long else 24
    served, cached = Content.file(blob.digest), blob_path(blob)
    lines = []
    with place.nginx() as nginx, place.warm_edge() as edge:

        def beside(measure, nginx_address, edge_address):
            return alternate(
                place.pairs,
                nginx=lambda: measure(nginx.process, nginx_address, served),
                edge=lambda: measure(edge.process, edge_address, cached),
            )

        def plain(process, address, path):
            return costing(process, lambda: loads.drain(address, path, place.folder, requests=requests, way="spin"))

        found = beside(plain, nginx.plain, edge.plain)
        lines += over_nginx("warm blob, plain", "nginx, sendfile", found, least=0.85, most=1.25)

        def tls(process, address, path):
            return costing(process, lambda: loads.take_tls(address, path, place.one_suite, requests=requests // 3))

        found = beside(tls, nginx.tls, edge.tls)
        lines += over_nginx("warm blob, TLS, HTTP/1.1", "nginx, OpenSSL", found, least=1.9, most=0.52)

        def http2(process, address, path):
            return costing(process, lambda: loads.h2load(f"https://{address}{path}", place.one_suite, requests=requests // 3))

        found = beside(http2, nginx.http2, edge.tls)
        lines += over_nginx("warm blob, TLS, HTTP/2", "nginx, OpenSSL", found, least=1.3, most=0.65)
    return lines


def blob_from_disk(place: Place) -> list[Line]:
    """A blob that the kernel has forgotten, for one client: what the disk gives. Told, for what is done about such blobs must not cost it."""
    blob = place.content.blobs["large"]
    with place.nginx() as nginx, place.warm_edge() as edge:

        def forgotten(process, address, path, file):
            bench.forget_pages(file)
            return costing(process, lambda: loads.drain(address, path, place.folder, requests=1, connections=1))

        served = Content.file(blob.digest)
        found = alternate(
            place.pairs,
            nginx=lambda: forgotten(nginx.process, nginx.plain, served, place.content.files / served.lstrip("/")),
            edge=lambda: forgotten(edge.process, edge.plain, blob_path(blob), cached_file(edge, blob)),
        )
    return over_nginx("blob that only the disk has", "nginx, sendfile", found)


def over_nginx(work: str, against: str, found: dict[str, list], *, least: float | None = None, most: float | None = None) -> list[Line]:
    tell(f"{work}: GB/s and processor seconds for a GB", found, {"bytes_per_s": (1e-9, ".2f"), "processor_s_per_gb": (1, ".3f")})
    return [
        Line(work + ": throughput", against, ratios(found["edge"], found["nginx"], "bytes_per_s"), least=least),
        Line(work + ": processor time for a GB", against, ratios(found["edge"], found["nginx"], "processor_s_per_gb"), most=most),
    ]


def tell(title: str, found: dict[str, list], told: dict[str, tuple[float, str]]) -> None:
    """Absolute figures of all sides, with factors for their units."""
    print(f"\n{title}")
    for name, results in found.items():
        shown = (bench.spread([value * factor for value in figures(results, key)], form) for key, (factor, form) in told.items())
        print(f"  {name:10} " + "   ".join(shown), flush=True)


def registry_on_one_core(place: Place) -> list[Line]:
    """Blobs and manifests over docker-registry's."""
    blob, manifest = place.content.blobs["large"], place.content.manifests["40k"]
    seconds = 5 if place.long else 1
    with place.origin(around=loads.SERVER) as registry, place.warm_edge() as edge:

        def drained(process, address, path):
            return costing(process, lambda: loads.drain(address, path, place.folder, requests=8 if place.long else 4))

        found = alternate(
            place.pairs,
            registry=lambda: drained(registry.process, registry.authority, f"/v2/{blob.repository}/blobs/{blob.digest}"),
            edge=lambda: drained(edge.process, edge.plain, blob_path(blob)),
        )
        tell("warm blob, plain, one core: GB/s and processor seconds for a GB", found,
             {"bytes_per_s": (1e-9, ".2f"), "processor_s_per_gb": (1, ".3f")})
        rates = ratios(found["edge"], found["registry"], "bytes_per_s")
        lines = [Line("warm blob, plain, one core", REGISTRY, rates, least=5, note=INSTEAD)]
        found = alternate(
            place.pairs,
            registry=lambda: loads.wrk(f"http://{registry.authority}/v2/{manifest.repository}/manifests/{manifest.digest}", seconds=seconds,
                                       Accept=ACCEPT),
            edge=lambda: loads.wrk(f"http://{edge.plain}{manifest_path(manifest, tag=False)}", seconds=seconds, Accept=ACCEPT),
        )
        tell("manifest of 40 KB, one core: requests a second", found, {"per_s": (1, ".0f")})
        rates = ratios(found["edge"], found["registry"], "per_s")
        lines.append(Line("manifest of 40 KB, one core", REGISTRY, rates, least=60, note=INSTEAD))
    return lines


def warm_manifests(place: Place) -> list[Line]:
    seconds = 5 if place.long else 1
    lines = []
    with place.nginx() as nginx, place.floor() as floor, place.warm_edge() as edge, place.warm_edge(tables=UNRECORDED) as silent:
        for size, manifest in place.content.manifests.items():

            def asked(path: str, of=edge, **headers: str) -> dict:
                return costing(of.process, lambda: loads.wrk(f"http://{of.plain}{path}", seconds=seconds, Accept=ACCEPT, **headers))

            static = f"http://{nginx.plain}{Content.file(manifest.digest)}"
            bearer = {"Authorization": f"Bearer {token(edge, manifest)}"}
            by_digest, by_tag = (manifest_path(manifest, tag=tag) for tag in (False, True))
            found = alternate(
                place.pairs,
                nginx=lambda: costing(nginx.process, lambda: loads.wrk(static, seconds=seconds)),
                hyper=lambda: costing(floor.process, lambda: loads.wrk(f"http://{floor.plain}/{manifest.size}", seconds=seconds)),
                by_digest=lambda: asked(by_digest),
                by_tag=lambda: asked(by_tag),
                by_digest_with_token=lambda: asked(by_digest, **bearer),
                by_tag_with_token=lambda: asked(by_tag, **bearer),
                by_tag_read_anew=lambda: asked(by_tag, **UNKNOWN),
                by_tag_without_records=lambda: asked(by_tag, silent),
            )
            for results in found.values():
                for each in results:
                    each["processor_us"] = each["processor_s"] * 1e6 / (each["per_s"] * seconds)
            tell(f"manifest of {manifest.size} bytes: requests a second, their p99 in ms, processor microseconds for each", found,
                 {"per_s": (1, ".0f"), "p99_ms": (1, ".2f"), "processor_us": (1, ".1f")})
            for side in ("by_digest", "by_tag", "by_digest_with_token", "by_tag_with_token"):
                work = f"manifest of {size}, {side.replace('_', ' ')}"
                least = 0.85 if side.endswith("token") else 0.9
                rates = ratios(found[side], found["nginx"], "per_s")
                lines.append(Line(f"{work}: requests a second", "nginx, static file", rates, least=least))
                lines.append(Line(f"{work}: p99", "-", figures(found[side], "p99_ms"), most=2, unit="ms"))
            rates = ratios(found["by_tag_read_anew"], found["nginx"], "per_s")
            lines.append(Line(f"manifest of {size}, by tag, whose head is not known by its bytes", "nginx, static file", rates))
            rates = ratios(found["by_tag_without_records"], found["nginx"], "per_s")
            lines.append(Line(f"manifest of {size}, by tag, with neither access log nor audit record", "nginx, static file", rates))
            rates = ratios(found["hyper"], found["nginx"], "per_s")
            lines.append(Line(f"{size} from hyper and tokio with nothing behind them", "nginx, static file", rates))
    return lines


def latency_under_load(place: Place) -> list[Line]:
    """A warm manifest while 64 blobs are pulled, over the same while the server is idle."""
    manifest, blob = place.content.manifests["2k"], place.content.blobs["large"]
    seconds, connections, pulls = (5 if place.long else 1), 4, 64
    with place.nginx() as nginx, place.warm_edge() as edge:

        def measured(address: str, small: str, large: str) -> dict:
            url = f"http://{address}{small}"
            idle = loads.wrk(url, seconds=seconds, connections=connections, Accept=ACCEPT)
            paths = place.folder / "pulled"
            paths.write_text(large + "\n")
            # More than can be sent in the time; it is ended before.
            words = ("--address", address, "--paths", paths, "--connections", pulls, "--requests", 10**6)
            # The same core as wrk's, which goes first: the client's own waiting is not the server's.
            command = [*loads.CLIENT, "nice", "-n", "19", str(bench.TOOLS / "drain"), *map(str, words)]
            pulling = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                loads.wrk(url, seconds=1, connections=connections, Accept=ACCEPT)
                busy = loads.wrk(url, seconds=seconds, connections=connections, Accept=ACCEPT)
                assert pulling.poll() is None, "the pulls ended too early"
            finally:
                pulling.kill()
                pulling.wait()
            return {"idle_ms": idle["p99_ms"], "busy_ms": busy["p99_ms"], "ratio": busy["p99_ms"] / idle["p99_ms"]}

        found = alternate(
            place.pairs,
            nginx=lambda: measured(nginx.plain, Content.file(manifest.digest), Content.file(blob.digest)),
            edge=lambda: measured(edge.plain, manifest_path(manifest, tag=True), blob_path(blob)),
        )
        tell("p99 of a manifest of 2 KB in ms: idle, during 64 pulls, ratio", found,
             {"idle_ms": (1, ".2f"), "busy_ms": (1, ".2f"), "ratio": (1, ".1f")})
    return [
        Line("p99 of a warm manifest during 64 blob pulls", "itself idle", figures(found["edge"], "ratio"), most=5),
        Line("the same of nginx", "itself idle", figures(found["nginx"], "ratio")),
    ]
