"""What the benchmarks share: builds, namespaces, paired runs, and the lines they print.

The scripts beside it run as they are: `tests/bench/far`. They build the edge and the measuring tools in the release profile first;
`--no-build` takes what is there. Every figure is a ratio of paired, interleaved runs, since the speed of a machine drifts.
"""

import argparse
import importlib.machinery
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = REPOSITORY / "tests" / "bench" / "target" / "release"
PYTHON = REPOSITORY / "target" / "python" / "bin" / "python"
OPEN_EDGE = '[access]\nanonymous_pull = ["**"]\n'


def use_installed_packages(programs: tuple[str, ...] = ()) -> None:
    """Goes on in the virtual environment that tests/run makes: the images' code needs its packages. `programs` are those of
    `tests/run --install-bench` that must be there, too."""
    if Path(sys.executable) != PYTHON:
        missing = [name for name in programs if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
        if missing or not PYTHON.exists():
            subprocess.run([REPOSITORY / "tests" / "run", "--install-bench" if missing else "--install"], check=True)
        os.execv(PYTHON, [str(PYTHON), *sys.argv])
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(REPOSITORY / "tests" / "real"))


def options(description: str, **defaults: int | str | bool) -> argparse.Namespace:
    """The values that a benchmark takes, each with its default, and --no-build. What is False by default is a switch."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-build", action="store_true")
    for name, default in defaults.items():
        kind = {"action": "store_true"} if default is False else {"type": type(default), "default": default}
        parser.add_argument("--" + name.replace("_", "-"), **kind)
    chosen = parser.parse_args()
    binary = REPOSITORY / "target" / "release" / "outport"
    os.environ.setdefault("OUTPORT_BINARY", str(binary))
    if not chosen.no_build:
        subprocess.run(["cargo", "build", "--release", "--locked"], cwd=REPOSITORY, check=True)
        subprocess.run(["cargo", "build", "--release", "--locked", "--all-features"], cwd=REPOSITORY / "tests" / "bench", check=True)
    return chosen


def script(name: str):
    """A benchmark beside this file, for what it can measure. Scripts have no ending by which they could be imported."""
    path = Path(__file__).with_name(name)
    spec = importlib.util.spec_from_loader(name, importlib.machinery.SourceFileLoader(name, str(path)))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def tell_where() -> None:
    """When and on what this is measured."""
    model = next((line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "unknown")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
    print(f"# {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, commit {commit}, {os.environ['OUTPORT_BINARY']}")
    print(f"# {os.cpu_count()} cores of {model}, Linux {platform.release()}, load {os.getloadavg()[0]:.1f}")
    if os.getloadavg()[0] > 0.5:
        print("# the machine is busy with something else: these figures mean little")


def tool(name: str, *words, around: tuple[str, ...] = ()) -> dict:
    """Runs one of the measuring programs and returns its line of JSON."""
    done = subprocess.run([*around, str(TOOLS / name), *map(str, words)], capture_output=True, text=True, timeout=900)
    if done.returncode != 0:
        raise RuntimeError(f"{name}: {done.stderr}")
    return json.loads(done.stdout)


class Namespace:
    """A network namespace with cubic. Paced algorithms, which some machines default to, hide differences on loopback."""

    def __init__(self, name: str):
        self.name = name
        self.inside = ("ip", "netns", "exec", name)
        allowed = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
        # Only the machine's own namespace has this list.
        if allowed.exists() and "cubic" not in allowed.read_text().split():
            allowed.write_text(allowed.read_text().strip() + " cubic")
        subprocess.run(["ip", "netns", "add", name], check=True)
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        # No run may profit from what the kernel remembers of the one before.
        settings = ["net.ipv4.tcp_congestion_control=cubic", "net.ipv4.tcp_no_metrics_save=1", "net.core.somaxconn=4096"]
        subprocess.run([*self.inside, "sysctl", "-q", *settings], check=True)

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=True)


@contextmanager
def namespaces(*names: str):
    """Namespaces whose names no other benchmark has."""
    made = []
    try:
        for name in names:
            made.append(Namespace(f"outport-{name}-{os.getpid()}"))
        yield made
    finally:
        for namespace in made:
            namespace.remove()


ONE_WAY_MS, MBIT_PER_S, QUEUE_BYTES = 40, 200, 4 * 1024 * 1024
"""Of the long link."""
NEAR_ADDRESS, FAR_ADDRESS = "10.77.0.1", "10.77.0.2"
LINK = f"link of {2 * ONE_WAY_MS} ms and {MBIT_PER_S} Mbit/s, queue of {QUEUE_BYTES} bytes, cubic"


@contextmanager
def link(near: Namespace, far: Namespace):
    """Joins two namespaces by a long link."""
    devices = {near: ("outport-near", NEAR_ADDRESS), far: ("outport-far", FAR_ADDRESS)}
    words = ["--one-way-ms", ONE_WAY_MS, "--mbit-per-s", MBIT_PER_S, "--queue-bytes", QUEUE_BYTES]
    wan = subprocess.Popen(
        [str(TOOLS / "wan"), "--a", devices[near][0], "--b", devices[far][0], *map(str, words)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert wan.stdout.readline() == "up\n", "the link does not come up"
        for namespace, (device, address) in devices.items():
            subprocess.run(["ip", "link", "set", device, "netns", namespace.name], check=True)
            subprocess.run(["ip", "-n", namespace.name, "address", "add", f"{address}/30", "dev", device], check=True)
            subprocess.run(["ip", "-n", namespace.name, "link", "set", device, "up"], check=True)
        yield
    finally:
        wan.terminate()
        wan.wait()


@contextmanager
def scratch(place: str = "/var/tmp"):
    """A folder that goes away. On a disk if nothing else is said: a cache in memory would flatter."""
    folder = Path(tempfile.mkdtemp(prefix="outport-bench-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def cold_edge(folder: Path, origin_url: str, around: tuple[str, ...]):
    """An edge that has nothing yet, for one run. The folder is that run's."""
    from edge import Edge, upstream

    edge = Edge(folder, OPEN_EDGE + upstream(origin_url), around=around)
    try:
        yield edge
    finally:
        edge.stop()
        forget(folder)


def forget(*folders: Path) -> None:
    """Removes what a run has left, so that the next one finds the disk as this one did."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    os.sync()


def forget_pages(file: Path) -> None:
    """Makes the kernel let go of what it has of a file in memory."""
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


PULLED = {"seconds": ".3f", "first_byte_ms": ".1f"}
"""What is told of pulls, and how."""


def paired(title: str, runs: int, direct, via_edge, told: dict[str, str] = PULLED, names=("direct", "edge")) -> tuple[list[dict], list[dict]]:
    """Alternates the two, and tells medians, the ratio of each pair by the first of the figures `told`, and the spread. `names` are
    those of the two."""
    pairs = []
    for number in range(runs):
        order = (direct, via_edge) if number % 2 == 0 else (via_edge, direct)
        results = {each: each() for each in order}
        pairs.append((results[direct], results[via_edge]))
    measure = next(iter(told))
    ratios = [edge[measure] / plain[measure] for plain, edge in pairs]
    print(f"\n{title}, {runs} pairs, {pairs[0][0]['bytes'] / 1e6:.1f} MB in {pairs[0][0]['blobs']} blobs")
    for name, results in zip(names, zip(*pairs)):
        figures = (f"{key.replace('_', ' ')} {spread([each[key] for each in results], form)}" for key, form in told.items())
        print(f"  {name:8} " + "   ".join(figures))
    print(f"  ratio    {spread(ratios, '.3f')}")
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def ratio(direct: list[dict], via_edge: list[dict], key: str = "seconds") -> float:
    """The median of the pairs' ratios."""
    return statistics.median(edge[key] / plain[key] for plain, edge in zip(direct, via_edge, strict=True))


def difference(direct: list[dict], via_edge: list[dict], key: str) -> float:
    """The median of the pairs' differences."""
    return statistics.median(edge[key] - plain[key] for plain, edge in zip(direct, via_edge, strict=True))


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


class Verdict:
    """Promises, each kept or broken."""

    def __init__(self):
        self.broken = 0

    def hold(self, promise: str, value: float, most: float, form: str = ".3f") -> None:
        kept = value <= most
        self.broken += not kept
        print(f"{'kept  ' if kept else 'BROKEN'} {promise}: {value:{form}}, at most {most:{form}}")

    def exit(self) -> None:
        sys.exit(1 if self.broken else 0)
