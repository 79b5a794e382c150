"""Loads, each a program of its own: wrk, h2load, the measuring tools, and crowds of connections. Each returns what it has measured."""

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import bench
from peers import SUITE

TIMEOUT_S = 900
CROWD = Path(__file__).with_name("crowd.py")
WINDOW_BITS = 30
"""Of HTTP/2: more than any server has on its way."""


def on_core(core: int) -> tuple[str, ...]:
    """Before a command: it runs on this core alone."""
    return ("taskset", "--cpu-list", str(core % os.cpu_count()))


SERVER, CLIENT = on_core(0), on_core(1)


def one_suite(folder: Path) -> dict[str, str]:
    """An environment in which OpenSSL offers one suite of TLS 1.3."""
    file = folder / "openssl.cnf"
    file.write_text(f"openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = suites\n[suites]\nCiphersuites = {SUITE}\n")
    return os.environ | {"OPENSSL_CONF": str(file)}


def _said(command: list, **options) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=TIMEOUT_S, **options)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def drain(address: str, path: str, folder: Path, *, requests: int, connections: int = 8, way: str = "wait",
          around: tuple[str, ...] = CLIENT) -> dict:
    """Takes one path many times."""
    paths = folder / "paths"
    paths.write_text(path + "\n")
    words = ("--address", address, "--paths", paths, "--requests", requests, "--connections", connections, "--way", way)
    return json.loads(_said([*around, bench.TOOLS / "drain", *words]))


def wrk(url: str, *, seconds: float, connections: int = 64, **headers: str) -> dict:
    """Requests a second as fast as they are answered, and the 99th percentile of their times."""
    fields = [word for name, value in headers.items() for word in ("-H", f"{name.replace('_', '-')}: {value}")]
    # Some servers take longer than the two seconds after which it would count an error.
    text = _said([*CLIENT, "wrk", "-t", 1, "-c", connections, "-d", f"{seconds:.0f}s", "--timeout", "30s", "--latency", *fields, url])
    if "Non-2xx" in text or "Socket errors" in text:
        raise AssertionError(f"{url}: {text}")
    per_s = float(re.search(r"Requests/sec:\s+([0-9.]+)", text)[1])
    value, unit = re.search(r"99%\s+([0-9.]+)(us|ms|s)", text).groups()
    # Where nothing was answered, wrk tells no time: it was more than this.
    return {"per_s": per_s, "p99_ms": float(value) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit] if per_s else seconds * 1e3}


def h2load(url: str, environment: dict[str, str], *, requests: int, connections: int = 8) -> dict:
    """Takes one path many times over HTTP/2 and TLS. It decrypts what comes."""
    words = ("--requests", requests, "--clients", connections, "--window-bits", WINDOW_BITS, "--connection-window-bits", WINDOW_BITS)
    text = _said([*CLIENT, "h2load", *words, url], env=environment)
    if SUITE not in text or f"{requests} succeeded" not in text or "Application protocol: h2" not in text:
        raise AssertionError(f"{url}: {text}")
    seconds, unit = re.search(r"finished in ([0-9.]+)(us|ms|s|m)\b", text).groups()
    seconds = float(seconds) * {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}[unit]
    size_bytes = int(re.search(r"\((\d+)\) data", text)[1])
    return {"seconds": seconds, "bytes": size_bytes, "bytes_per_s": size_bytes / seconds}


def take_tls(address: str, path: str, environment: dict[str, str], *, requests: int, connections: int = 8) -> dict:
    """Takes one path many times over HTTP/1.1 and TLS, and decrypts nothing of what comes. Counts encrypted bytes, headers among them."""
    words = ("--tls", "--address", address, "--path", path, "--way", "at-once", "--requests", requests, "--connections", connections)
    return json.loads(_said([*CLIENT, sys.executable, CROWD, *words], env=environment))


@contextmanager
def crowd(address: str, path: str, environment: dict[str, str], *, way: str, connections: int, tls: bool, rate: float = 4096,
          around: tuple[str, ...] = CLIENT):
    """Connections that are all there inside the block. What became of them is in what it yields, when it has ended."""
    words = ["--address", address, "--path", path, "--way", way, "--connections", connections, "--rate", rate, "--seconds", TIMEOUT_S]
    command = [*around, sys.executable, CROWD, *words, *(["--tls"] if tls else [])]
    process = subprocess.Popen([str(word) for word in command], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    found: dict = {}
    try:
        if process.stdout.readline() != "up\n":
            raise AssertionError(f"{connections} connections to {address} did not come up")
        yield found
        found |= json.loads(process.communicate("\n", timeout=60)[0].strip().splitlines()[-1])
    finally:
        process.kill()
        process.wait()


def pull(address: str, *words, around: tuple[str, ...] = ()) -> dict:
    return bench.tool("pull", "--address", address, *words, around=around)
