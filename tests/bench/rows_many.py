"""The rows of the table about memory, many connections, and many cached blobs."""

import tempfile
import time
from pathlib import Path

import bench
import loads
from content import Item
from place import Place, blob_path, cached_file, settle
from table import Line

scale = bench.script("scale")
MEBIBYTE, KIBIBYTE = 1 << 20, 1 << 10
HELD_S = 10
"""How long a crowd is watched."""
FORGOTTEN_EVERY_S = 0.1
FIRST = 16
READY_MOST_S = 5
MILLION = 1_000_000
IN_MEMORY = "/dev/shm"
ABOUT_THE_SAME = 1.3


def memory(place: Place) -> list[Line]:
    """Each kind of load on a process that was started for it."""
    lines, large = [], place.content.blobs["large"]
    middle = place.content.blobs["middle"]
    tls_blob = large if place.long else middle
    with place.warm_edge() as edge:

        def grown(blob: Item, load, before=None) -> float:
            """Bytes, at most, over what the process had when it had just been started, or when it had done something `before`."""
            edge.stop()
            edge.start()
            idle = edge.process.resident_bytes()
            loads.drain(edge.plain, blob_path(blob), place.folder, requests=1)
            settle(edge)
            if before:
                before()
                idle = edge.process.resident_bytes()
            edge.process.forget_peak()
            load()
            return edge.process.peak_bytes() - idle

        edge.stop()
        edge.start()
        settle(edge)
        lines.append(Line("memory, idle", "-", [edge.process.resident_bytes() / MEBIBYTE], most=30, form=".1f", unit="MiB"))
        for blob, promise in ((large, 16), (middle, None)):
            found = grown(blob, lambda: loads.drain(edge.plain, blob_path(blob), place.folder, requests=64, connections=64))
            what = f"memory grown by 64 pulls of {blob.size // MEBIBYTE} MiB, plain"
            lines.append(Line(what, "-", [found / 1e6], most=promise, form=".1f", unit="MB"))
        for blob, promise in ((tls_blob, 40), (place.content.blobs["shared"], None)):
            found = grown(blob, lambda: loads.take_tls(edge.tls, blob_path(blob), place.one_suite, requests=64, connections=64))
            note = "in place of 512 MiB" if promise and blob is not large else ""
            lines.append(Line(f"memory grown by 64 pulls of {blob.size // MEBIBYTE} MiB, TLS", "-", [found / 1e6], most=promise, form=".1f",
                              unit="MB", note=note))

        def in_place(wanted: str) -> str:
            return "" if place.long else f"in place of {wanted}"

        def for_each(what: str, grown_bytes: float, most: float | None, note: str) -> Line:
            return Line(f"memory for each of {what}", "-", [grown_bytes / KIBIBYTE], most=most, form=".1f", unit="KiB", note=note)

        pulled = place.content.blobs["largest" if place.long else "large"]

        def crowd(count: int, *, tls: bool, way: str, rate: float, path: str, from_disk: bool = False) -> float:
            """Bytes grown for each connection, beside what the first few of a process cost. `from_disk`: the kernel is made to forget
            the blob again and again, as it does where other things need its memory."""
            cached = cached_file(edge, pulled)

            def load(connections: int = count, seconds: int = HELD_S if place.long else 2):
                address = edge.tls if tls else edge.plain
                with loads.crowd(address, path, place.one_suite, way=way, connections=connections, tls=tls, rate=rate) as found:
                    until = time.monotonic() + seconds
                    while time.monotonic() < until:
                        if from_disk:
                            bench.forget_pages(cached)
                        time.sleep(FORGOTTEN_EVERY_S)
                assert not found["ended"], f"{found['ended']} of {connections} connections were closed by the edge"

            return grown(pulled, load, before=lambda: load(FIRST, 1)) / count

        kinds = ((False, 32, "plain"), (True, 128, "TLS"))
        pulls = 1000 if place.long else 200
        for tls, promise, name in kinds:
            found = crowd(pulls, tls=tls, way="slow", rate=MEBIBYTE, path=blob_path(pulled))
            lines.append(for_each(f"{pulls} pulls of {pulled.size // MEBIBYTE} MiB, {name}", found, promise, in_place("1,000 of 1 GiB")))
        found = crowd(pulls, tls=False, way="slow", rate=MEBIBYTE, path=blob_path(pulled), from_disk=True)
        lines.append(for_each(f"{pulls} pulls of {pulled.size // MEBIBYTE} MiB, plain, from the disk", found, 32, in_place("1,000 of 1 GiB")))
        readers = 5000 if place.long else 500
        for tls, promise, name in kinds:
            found = crowd(readers, tls=tls, way="slow", rate=4 * KIBIBYTE, path=blob_path(pulled))
            lines.append(for_each(f"{readers} slow readers, {name}", found, promise, in_place("5,000")))
        idle = 15_000 if place.long else 500
        found = crowd(idle, tls=True, way="idle", rate=1, path="/v2/")
        lines.append(for_each(f"{idle} idle TLS connections", found, None, in_place("15,000")))
    print()
    for line in lines:
        print(f"  {line.work}: {line.measured}", flush=True)
    return lines


def many_blobs(place: Place) -> list[Line]:
    """A start with many cached blobs, and what a look-up and an eviction cost with one count and with twice as many."""
    # To fill a disk takes long, since each blob is synced; what is read of it later is in memory in either case.
    with bench.scratch(IN_MEMORY) as folder:
        count, results = (500_000 if place.long else 6_000), []
        for each in (count, 2 * count):
            results.append(scale.measure(each, fresh(folder)))
            scale.tell(results[-1])
        half, whole = results
        slope_s = max(0.0, whole["ready_s"] - half["ready_s"]) / count
        entry_bytes = (whole["resident_bytes"] - half["resident_bytes"]) / count
        note = "" if whole["count"] >= MILLION else f"extrapolated from {half['count']} and {whole['count']}"
        look_ups = whole["first"]["whole_ms"]["p50"] / half["first"]["whole_ms"]["p50"]
        ready_s = whole["ready_s"] + slope_s * (MILLION - whole["count"])
        return [
            Line("start at a million cached blobs", "-", [ready_s], most=READY_MOST_S, form=".3f", unit="s", note=note),
            Line(f"a look-up with {whole['count']} blobs, p50", f"with {half['count']}", [look_ups], most=ABOUT_THE_SAME),
            Line("memory for each entry", "-", [entry_bytes], form=".0f", unit="bytes"),
            evictions(folder, 100_000 if place.long else 3_000),
        ]


def evictions(folder: Path, count: int) -> Line:
    """Blobs a second that come in while as many go: with room for so many, over with room for twice as many."""
    few, many = (scale.evict(count, kept, fresh(folder))["per_second"] for kept in (count, 2 * count))
    print(f"\nblobs a second into a full cache: {few:.0f} with room for {count}, {many:.0f} with room for {2 * count}", flush=True)
    return Line(f"an eviction with room for {2 * count} blobs, time", f"with room for {count}", [few / many], most=ABOUT_THE_SAME)


def fresh(folder: Path) -> Path:
    """An empty folder in it, the only one."""
    bench.forget(*folder.iterdir())
    return Path(tempfile.mkdtemp(dir=folder))
