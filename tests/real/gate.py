"""A gate before a server: open, shut, or silent, so that outages need no restart of the server and lose nothing of its own."""

import asyncio

from wire import BUFFER_BYTES, PIECE_BYTES, Address, Listener, abort


class Gate:
    """Passes connections on to `server`. Clients know the gate's address only."""

    def __init__(self, server: Address):
        self._server = server
        self._listener = Listener(self._serve)
        self._silent = False

    @property
    def authority(self) -> str:
        return self._listener.authority

    def shut(self) -> None:
        """Open connections are cut, new ones are refused: the server is gone."""
        self._listener.close()

    def silence(self) -> None:
        """Open connections are cut, new ones are accepted, and nothing is ever answered: the server hangs."""
        self._listener.close()
        self._silent = True
        self._listener.open()

    def open(self) -> None:
        if self._silent:
            self._listener.close()
            self._silent = False
        self._listener.open()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._silent:
            while await reader.read(PIECE_BYTES):
                pass
            return
        from_server, to_server = await asyncio.open_connection(*self._server, limit=BUFFER_BYTES)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, to_server))
                both.create_task(_pump(from_server, writer))
        except* OSError:
            pass
        finally:
            abort(to_server)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    # The other direction may go on.
    if writer.can_write_eof():
        writer.write_eof()
