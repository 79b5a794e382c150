"""A region: edges that share one bucket, behind balancers that spread requests over them at random."""

import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from certificates import Certificate
from edge import Edge
from network import Site
from spread import Spread
from stores import Store, fresh_prefix

ANYBODY = '[access]\nanonymous_pull = ["**"]\nanonymous_push = ["**"]\n'


class Region:
    """`edges` of them, started at once. `plain` and `tls` are the balancers before their listeners."""

    def __init__(self, folder: Path, store: Store, certificate: Certificate | None = None, *, edges: int = 2, seed: int = 0,
                 limits: dict[str, str] | None = None, bucket: dict[str, str] | None = None, tables: str = "", name: str = "local",
                 prefix: str | None = None, site: Site | None = None, listeners: list[tuple[str, str]] | None = None, access: str = ANYBODY):
        """`limits` and `bucket` are further keys of these tables, `tables` are further tables. `prefix` and `listeners`, one pair for
        each edge, are given where other regions must know them before the edges start. `access` is a table of that name."""
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.store, self.prefix = name, store, prefix or fresh_prefix()
        self._token_file = folder / "sibling-token"
        self._token_file.write_text(secrets.token_hex(32) + "\n")
        self._token_file.chmod(0o600)
        self._limits, self._bucket, self._access, self._more = limits or {}, bucket or {}, access, tables
        with ThreadPoolExecutor(edges) as starters:
            starting = [
                starters.submit(
                    Edge, folder / f"edge-{number}", self._tables, certificate, site.inside if site else (), region=name,
                    listeners=listeners[number] if listeners else None,
                )
                for number in range(edges)
            ]
        self.edges: list[Edge] = [each.result() for each in starting]
        self.plain = Spread([edge.plain for edge in self.edges], seed)
        self.tls = Spread([edge.tls for edge in self.edges], seed, certificate) if certificate else None

    def _tables(self, edge: Edge) -> str:
        limits = "".join(f'{key} = "{value}"\n' for key, value in self._limits.items())
        siblings = f'[siblings]\nadvertise = "http://{edge.plain}"\ntoken_file = "{self._token_file}"\n'
        bucket = self.store.table(self.prefix, **self._bucket)
        return self._access + (f"[limits]\n{limits}" if limits else "") + siblings + bucket + self._more

    def keys(self) -> dict[str, int]:
        """What the region's bucket holds."""
        return self.store.keys(self.prefix)

    def stop(self) -> None:
        self.plain.stop()
        if self.tls:
            self.tls.stop()
        for edge in self.edges:
            edge.stop()
