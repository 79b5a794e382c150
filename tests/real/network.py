"""Places that have a network of their own: one namespace each, joined by links that can be long, cut, or cut in one direction.

A place has one address, under which the others reach it over their links, and this machine over a link that no fault touches: clients of
a region that is cut off still reach it. Needs root.
"""

import os
import subprocess
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from processes import run

REPOSITORY = Path(__file__).resolve().parents[2]
WAN = REPOSITORY / "tests" / "bench" / "target" / "release" / "wan"
MBIT_PER_S, QUEUE_BYTES = 200, 4 * 1024 * 1024
"""Of a long link."""
_numbers = count(1)


@dataclass(frozen=True)
class Site:
    name: str
    number: int
    address: str
    namespace: str

    @property
    def inside(self) -> tuple[str, ...]:
        """Before a command: it runs there."""
        return ("ip", "netns", "exec", self.namespace)


class Network:
    def __init__(self):
        self.sites: list[Site] = []
        self._links: list[subprocess.Popen] = []
        # Two runs at a time are in each other's way only by chance.
        self._first_bytes = f"10.{64 + os.getpid() % 64}"

    def add(self, name: str) -> Site:
        number = next(_numbers)
        site = Site(name, number, f"{self._first_bytes}.{number}.1", f"outport-{os.getpid()}-{name}")
        run("ip", "netns", "add", site.namespace)
        self.sites.append(site)
        _in(site, "link", "set", "lo", "up")
        _in(site, "address", "add", f"{site.address}/32", "dev", "lo")
        # To this machine: a pair of addresses for the link, and a route to the site's own.
        here, there = (f"{self._first_bytes}.{number + 128}.{host}" for host in (1, 2))
        run("ip", "link", "add", self._device(site), "type", "veth", "peer", "name", "machine", "netns", site.namespace)
        run("ip", "address", "add", f"{here}/30", "dev", self._device(site))
        run("ip", "link", "set", self._device(site), "up")
        _in(site, "address", "add", f"{there}/30", "dev", "machine")
        _in(site, "link", "set", "machine", "up")
        run("ip", "route", "add", f"{site.address}/32", "via", there)
        return site

    def join(self, one: Site, other: Site, round_trip_ms: float = 0) -> None:
        """A link between two places; without a time it is as fast as the machine."""
        devices = {one: f"o{os.getpid()}-{one.number}{other.number}", other: f"o{os.getpid()}-{other.number}{one.number}"}
        if round_trip_ms:
            self._lengthen(devices[one], devices[other], round_trip_ms / 2)
            for site, device in devices.items():
                run("ip", "link", "set", device, "netns", site.namespace)
        else:
            run("ip", "link", "add", devices[one], "netns", one.namespace, "type", "veth",
                "peer", "name", devices[other], "netns", other.namespace)
        for site, far in ((one, other), (other, one)):
            _in(site, "link", "set", devices[site], "up")
            _in(site, "route", "add", f"{far.address}/32", "dev", devices[site], "src", site.address)

    def _lengthen(self, one: str, other: str, one_way_ms: float) -> None:
        if not WAN.exists():
            run("cargo", "build", "--release", "--locked", "--bin", "wan", cwd=WAN.parents[2])
        words = ["--a", one, "--b", other, "--one-way-ms", one_way_ms, "--mbit-per-s", MBIT_PER_S, "--queue-bytes", QUEUE_BYTES]
        link = subprocess.Popen([str(WAN), *map(str, words)], stdout=subprocess.PIPE, text=True)
        self._links.append(link)
        assert link.stdout.readline() == "up\n", "the link does not come up"

    def lose(self, sender: Site, receiver: Site) -> None:
        """Packets of this direction vanish; the others arrive."""
        run(*receiver.inside, "iptables", "--append", "INPUT", "--source", sender.address, "--jump", "DROP")

    def cut(self, one: Site, other: Site) -> None:
        self.lose(one, other)
        self.lose(other, one)

    def isolate(self, site: Site) -> None:
        """Cuts it off from all other places."""
        for other in self.sites:
            if other != site:
                self.cut(site, other)

    def refuse(self, one: Site, other: Site) -> None:
        """Whoever calls the other side is told at once that nobody is there."""
        for site, far in ((one, other), (other, one)):
            run(*site.inside, "iptables", "--append", "OUTPUT", "--destination", far.address, "--protocol", "tcp",
                "--jump", "REJECT", "--reject-with", "tcp-reset")

    def heal(self) -> None:
        for site in self.sites:
            run(*site.inside, "iptables", "--flush")

    def remove(self) -> None:
        for link in self._links:
            link.terminate()
            link.wait()
        for site in self.sites:
            # Its devices go with it, after a while: this machine's end must be gone when its address is used again.
            subprocess.run(["ip", "link", "delete", self._device(site)], check=False)
            subprocess.run(["ip", "netns", "delete", site.namespace], check=False)

    @staticmethod
    def _device(site: Site) -> str:
        return f"o{os.getpid()}m{site.number}"


def _in(site: Site, *words: str) -> None:
    run("ip", "-n", site.namespace, *words)
