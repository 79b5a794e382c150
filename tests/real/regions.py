"""Several regions that know each other, on this machine's loopback or each at a place of its own network."""

import json
import secrets
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

from api import Api, push_blob
from edge import Edge, binary
from network import Site
from processes import free_port
from region import ANYBODY, Region
from stores import Store, fresh_prefix

EDGES = 2
SETTLED_S = 3


def has(told: dict, wanted: dict[str, int]) -> bool:
    """Whether an edge that told so has all these ledgers up to these segments."""
    seen = told["seen"] | {f"{told['region']}.{told['incarnation']}": told["seq"]}
    return all(seen.get(origin, 0) >= seq for origin, seq in wanted.items())


class Regions:
    """Each region's edges and, where it can be reached, its store are known to all others. One token for each pair of them."""

    def __init__(self, folder: Path, stores: dict[str, Store], sites: dict[str, Site] | None = None, *, edges: int = EDGES, seed: int = 0,
                 tables: str = "", access: str = ANYBODY):
        """`stores` by the names of regions. `access` is a table of that name, and `tables` are further ones of every edge's
        configuration. What is below `settled/` must be open to everybody for `settle`."""
        self._folder, self._stores, self._sites = folder, stores, sites or {}
        self._prefixes = {name: fresh_prefix() for name in stores}
        self._listeners = {name: [self._listen(name, number) for number in range(edges)] for name in stores}
        folder.mkdir(parents=True, exist_ok=True)
        self._tokens = {pair: self._token(pair) for pair in {tuple(sorted((a, b))) for a in stores for b in stores if a != b}}

        def start(name: str) -> Region:
            return Region(
                folder / name, stores[name], edges=edges, seed=seed, tables=self.peers_of(name) + tables, name=name,
                prefix=self._prefixes[name], site=self._sites.get(name), listeners=self._listeners[name], access=access,
            )

        with ThreadPoolExecutor(len(stores)) as starters:
            started = [starters.submit(start, name) for name in stores]
        self.by_name = {name: each.result() for name, each in zip(stores, started, strict=True)}

    @property
    def names(self) -> list[str]:
        return [*self.by_name]

    @property
    def edges(self) -> list[Edge]:
        return [edge for region in self.by_name.values() for edge in region.edges]

    def logs(self) -> list[Path]:
        return [edge.process.log for edge in self.edges]

    def declare_lost(self, name: str, by: str) -> str:
        """What an operator of another region does. LookupError if it cannot be done now."""
        # The command reads the region's configuration; the edge whose it is need not run.
        edge = self.by_name[by].edges[0]
        site = self._sites.get(by)
        command = [*(site.inside if site else ()), binary(), "--config", edge.config, "region", "lost", name, "--yes"]
        done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
        if done.returncode != 0:
            raise LookupError(f"exit code {done.returncode}: {done.stderr}")
        return done.stdout

    def others(self, name: str) -> list[str]:
        return [other for other in self._stores if other != name]

    def token_between(self, one: str, other: str) -> str:
        """What proves either to the other."""
        return self._tokens[tuple(sorted((one, other)))].read_text().strip()

    def ledger_of(self, edge: Edge, name: str) -> dict:
        """Where an edge of a region stands, as it tells the other regions. LookupError if it does not now."""
        token = self.token_between(name, self.others(name)[0])
        try:
            answer = edge.get("/outport/v1/ledger", Authorization=f"Bearer {token}")
        except OSError as error:
            raise LookupError(str(error)) from error
        if answer.status != 200:
            raise LookupError(f"{answer.status}: {answer.body[:300]!r}")
        return json.loads(answer.body)

    def origin_of(self, name: str, timeout_s: float = 30) -> str:
        """The name of a region's ledger now. Edges may be dead just then."""
        until = time.monotonic() + timeout_s
        for edge in cycle(self.by_name[name].edges):
            try:
                told = self.ledger_of(edge, name)
                return f"{told['region']}.{told['incarnation']}"
            except LookupError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
        raise AssertionError("a region without edges")

    def settle(self, timeout_s: float = 60) -> None:
        """Waits until every edge has what was pushed in each region when this began. Edges that were not there when others started are
        not asked for a few seconds."""
        until, wanted = time.monotonic() + timeout_s, {}
        for name, region in self.by_name.items():
            api = Api(region.edges[0].plain)
            push_blob(api, "settled/region", name.encode())
            wanted[self.origin_of(name)] = self.ledger_of(region.edges[0], name)["seq"]
            api.close()
        for name, region in self.by_name.items():
            for edge in region.edges:
                while not has(self.ledger_of(edge, name), wanted):
                    assert time.monotonic() < until, (name, self.ledger_of(edge, name), wanted)
                    time.sleep(0.1)
        time.sleep(SETTLED_S)

    def peers_of(self, name: str) -> str:
        """The `[[peer]]` tables of a region's configuration."""
        return "".join(self._peer(name, other) for other in self.others(name))

    def _peer(self, name: str, other: str) -> str:
        edges = json.dumps([f"http://{plain}" for plain, _ in self._listeners[other]])
        table = f'[[peer]]\nregion = "{other}"\nedges = {edges}\ntoken_file = "{self._tokens[tuple(sorted((name, other)))]}"\n'
        store = self._stores[other]
        # A folder has no network: in another place nobody can see it.
        reachable = store.shared or other not in self._sites
        return table + (store.table(self._prefixes[other], "peer.bucket") if reachable else "")

    def _listen(self, name: str, number: int) -> tuple[str, str]:
        site = self._sites.get(name)
        if site is None:
            return f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        return f"{site.address}:{5000 + 10 * number}", f"{site.address}:{5001 + 10 * number}"

    def _token(self, pair: tuple[str, str]) -> Path:
        file = self._folder / f"token-{'-'.join(pair)}"
        file.write_text(secrets.token_hex(32) + "\n")
        file.chmod(0o600)
        return file

    def stop(self) -> None:
        for region in self.by_name.values():
            region.stop()
        for edge in self.edges:
            shutil.rmtree(edge.data, ignore_errors=True)
