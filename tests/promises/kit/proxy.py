"""A TCP proxy that can be made a bad network."""

import asyncio
import threading

SLOW_BYTES, SLOW_PAUSE = 700, 0.02


class Proxy:
    """`mode`, at any time, for connections there and to come:

    `pass`; `refuse`: ends every connection as soon as it is made; `silent`: takes bytes and passes none on, and says
    nothing about it (half-open); `slow`: about 35 kB a second.
    """

    def __init__(self, target):
        self.target = target
        self.mode = "pass"
        self.connections = 0
        self._writers = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]

    def _call(self, doing):
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(10)

    async def _serve(self, reader, writer):
        self.connections += 1
        if self.mode == "refuse":
            writer.transport.abort()
            return
        try:
            above, below = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, below}
        ways = [asyncio.ensure_future(self._pump(reader, below)), asyncio.ensure_future(self._pump(above, writer))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for end in (writer, below):
            self._writers.discard(end)
            end.transport.abort()

    async def _pump(self, source, drain):
        try:
            while data := await source.read(SLOW_BYTES if self.mode == "slow" else 65536):
                while self.mode == "silent":
                    await asyncio.sleep(0.02)
                if self.mode == "slow":
                    await asyncio.sleep(SLOW_PAUSE)
                drain.write(data)
                await drain.drain()
        except OSError:
            pass

    def cut(self):
        """Resets every connection that is there; what is under way in it is gone."""

        async def cut():
            for writer in list(self._writers):
                writer.transport.abort()

        self._call(cut())

    def close(self):
        self.cut()

        async def close():
            self._server.close()
            await asyncio.sleep(0.1)

        self._call(close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
