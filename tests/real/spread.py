"""A balancer without any memory: each request goes to an edge drawn at random, so that no two of a push meet the same one by rule."""

import asyncio
import random
import ssl
from collections import Counter
from dataclasses import dataclass

from certificates import Certificate
from wire import Address, Head, Listener, MAX_HEAD_BYTES, pass_on, read_head, respond


@dataclass(frozen=True)
class Passed:
    """A request that was answered."""

    method: str
    path: str
    status: int
    edge: int
    """Which one answered, by its place in the list."""


class Spread:
    """Spreads requests over `authorities`. With a certificate it speaks TLS to both sides: whatever listens there, must."""

    def __init__(self, authorities: list[str], seed: int, certificate: Certificate | None = None):
        self._edges = [_address(authority) for authority in authorities]
        self._random = random.Random(seed)
        self.passed: list[Passed] = []
        self._outward = None
        inward = None
        if certificate:
            inward = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            inward.load_cert_chain(certificate.cert_file, certificate.key_file)
            # Clients check the certificate; behind the balancer it is the same one.
            self._outward = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._outward.check_hostname, self._outward.verify_mode = False, ssl.CERT_NONE
        self._listener = Listener(self._serve, inward)

    @property
    def authority(self) -> str:
        return self._listener.authority

    def shares(self) -> Counter[int]:
        """How many requests each edge has answered."""
        return Counter(passed.edge for passed in self.passed)

    def stop(self) -> None:
        self._listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        again = True
        while again and (request := await read_head(reader)):
            again = await self._spread(request, reader, writer)

    async def _spread(self, request: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Passes one request on. An edge that refuses the connection has seen nothing of it: then another one is drawn."""
        for edge in self._random.sample(range(len(self._edges)), len(self._edges)):
            try:
                upstream = await asyncio.open_connection(*self._edges[edge], limit=MAX_HEAD_BYTES, ssl=self._outward)
            except OSError:
                continue
            status, again = await pass_on(request, reader, writer, upstream)
            method, path, _ = request.start.split(" ")
            self.passed.append(Passed(method, path, status, edge))
            return again
        await respond(writer, 502, b"no edge is there", Connection="close")
        return False


def _address(authority: str) -> Address:
    host, _, port = authority.rpartition(":")
    return host, int(port)
