#!/usr/bin/env python3
"""Many connections from one thread, with TLS or without: that stay idle, that take what they asked for slowly, or at once.

What comes under TLS is discarded as it is, still encrypted, so that the client is not slower than the server: it only makes the
handshakes, with the suites that OPENSSL_CONF leaves. Prints one line of JSON. With `--way idle` and `--way slow` it prints `up` first,
once all connections are there, and ends when there is input or the time is over.
"""

import argparse
import contextlib
import json
import select
import socket
import ssl
import sys
import time

DISCARD_BYTES = 8 << 20
READ_BYTES = 64 << 10
SLOW_WINDOW_BYTES = 64 << 10
"""So that what waits for slow clients is in the server, not in the kernel."""
TICKS_PER_S = 4
SILENCE_S = 30
ADDRESSES = tuple(f"127.0.0.{number}" for number in range(1, 9))
"""Of the clients: one address has too few ports for the largest crowds."""


class Crowd:
    def __init__(self, chosen: argparse.Namespace):
        self.chosen = chosen
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        host, port = chosen.address.rsplit(":", 1)
        self.server = (host, int(port))
        self.buffer = bytearray(DISCARD_BYTES)
        self.opened = 0
        self.bytes = 0

    def open(self, path: str, *, close: bool, whole: bool) -> socket.socket:
        """A connection on which a path was asked for. `whole`: the answer, which must be short, was read."""
        connection = socket.socket()
        if self.chosen.way == "slow":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_WINDOW_BYTES)
        connection.settimeout(SILENCE_S)
        if self.server[0].startswith("127."):
            connection.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
            connection.bind((ADDRESSES[self.opened % len(ADDRESSES)], 0))
        connection.connect(self.server)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.opened += 1
        request = f"GET {path} HTTP/1.1\r\nHost: {self.chosen.address}\r\nConnection: {'close' if close else 'keep-alive'}\r\n\r\n".encode()
        if self.chosen.tls:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            session = self.context.wrap_bio(incoming, outgoing, server_hostname="localhost")

            def until_done(step):
                while True:
                    with contextlib.suppress(ssl.SSLWantReadError):
                        done = step()
                        connection.sendall(outgoing.read())
                        return done
                    connection.sendall(outgoing.read())
                    came = connection.recv(READ_BYTES)
                    if not came:
                        raise ConnectionError("closed in the handshake")
                    incoming.write(came)

            until_done(session.do_handshake)
            until_done(lambda: session.write(request))
            if whole:
                until_done(lambda: session.read(READ_BYTES))
        else:
            connection.sendall(request)
            if whole:
                connection.recv(READ_BYTES)
        connection.setblocking(False)
        return connection

    def discard(self, connection: socket.socket, most: int) -> int | None:
        """How much came; 0 at the end, None if there is nothing now."""
        try:
            count = connection.recv_into(self.buffer, min(most, DISCARD_BYTES), socket.MSG_TRUNC)
        except BlockingIOError:
            return None
        self.bytes += count
        return count

    def at_once(self) -> dict:
        """Asks for a path `requests` times, each on a new connection, and takes all that comes as it comes."""
        left, polled, connections = self.chosen.requests, select.epoll(), {}

        def ask():
            connection = self.open(self.chosen.path, close=True, whole=False)
            connections[connection.fileno()] = connection
            polled.register(connection, select.EPOLLIN)

        started = time.monotonic()
        for _ in range(min(left, self.chosen.connections)):
            ask()
        left -= len(connections)
        while connections:
            ready = polled.poll(SILENCE_S)
            if not ready:
                raise TimeoutError("nothing comes any more")
            for descriptor, _ in ready:
                if self.discard(connections[descriptor], DISCARD_BYTES) == 0:
                    polled.unregister(descriptor)
                    connections.pop(descriptor).close()
                    if left:
                        left -= 1
                        ask()
        seconds = time.monotonic() - started
        return {"seconds": seconds, "bytes": self.bytes, "bytes_per_s": self.bytes / seconds, "requests": self.chosen.requests}

    def held(self) -> dict:
        """Opens all connections, and keeps them for a time: idle after a short answer, or taking a long one slowly."""
        slow = self.chosen.way == "slow"
        started = time.monotonic()
        connections = [self.open(self.chosen.path, close=False, whole=not slow) for _ in range(self.chosen.connections)]
        opening_s = time.monotonic() - started
        print("up", flush=True)
        until, ended = time.monotonic() + self.chosen.seconds, 0
        while time.monotonic() < until and not select.select([sys.stdin], [], [], 1 / TICKS_PER_S)[0]:
            if slow:
                # A connection that was not looked at for longer takes more: the rate is that of the whole time.
                owed = int((time.monotonic() - until + self.chosen.seconds) * self.chosen.rate) - self.bytes // len(connections)
                for connection in connections:
                    self.discard(connection, max(1, owed))
        for connection in connections:
            # What has been closed by the server has an end; what is open has none.
            with contextlib.suppress(ConnectionResetError):
                while count := self.discard(connection, DISCARD_BYTES):
                    if slow:
                        break
                ended += count == 0
                continue
            ended += 1
        return {"opening_s": opening_s, "connections": len(connections), "ended": ended, "bytes": self.bytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--way", choices=("idle", "slow", "at-once"), required=True)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--rate", type=float, default=4096, help="bytes a second for each connection that is slow")
    parser.add_argument("--seconds", type=float, default=60)
    crowd = Crowd(parser.parse_args())
    print(json.dumps(crowd.at_once() if crowd.chosen.way == "at-once" else crowd.held()))


if __name__ == "__main__":
    main()
