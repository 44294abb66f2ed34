"""A broker upstream that misbehaves by script: it takes what an uplink publishes and answers as it is told."""

import asyncio
import itertools
import struct
import threading
from dataclasses import dataclass, field

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, SUBACK = range(1, 10)
PINGREQ, PINGRESP, DISCONNECT = 12, 13, 14
RECEIVE_MAXIMUM, MAXIMUM_PACKET_SIZE, TOPIC_ALIAS_MAXIMUM = 0x21, 0x27, 0x22
MAXIMUM_QOS, RETAIN_AVAILABLE, SERVER_KEEP_ALIVE, WILDCARDS = 0x24, 0x25, 0x13, 0x28
_WIDTHS = {
    0x01: 1, 0x02: 4, 0x0B: "v", 0x11: 4, 0x13: 2, 0x17: 1, 0x19: 1, 0x21: 2, 0x22: 2, 0x23: 2, 0x24: 1, 0x25: 1,
    0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1, 0x26: "pair",
}  # fmt: skip


@dataclass
class Taken:
    """A PUBLISH as it came."""

    connection: int
    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    packet_id: int | None
    user: dict = field(default_factory=dict)
    code: int = 0
    """What it was answered."""

    @property
    def mark(self):
        return self.user.get("boot"), self.user.get("seq")


def variable(number):
    out = bytearray()
    while True:
        number, low = divmod(number, 128)
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)


def text(value):
    body = value.encode()
    return struct.pack(">H", len(body)) + body


def encoded(properties):
    body = b"".join(bytes([key]) + value.to_bytes(_WIDTHS[key], "big") for key, value in properties.items())
    return variable(len(body)) + body


class _Input:
    def __init__(self, body):
        self.body, self.at = body, 0

    def take(self, count):
        self.at += count
        return self.body[self.at - count : self.at]

    def number(self, width):
        return int.from_bytes(self.take(width), "big")

    def variable(self):
        value = shift = 0
        while True:
            byte = self.number(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    def text(self):
        return self.take(self.number(2)).decode("utf-8", "surrogateescape")

    def properties(self):
        length = self.variable()
        end, found, user = self.at + length, {}, {}
        while self.at < end:
            key = self.number(1)
            width = _WIDTHS.get(key)
            if width == "pair":
                name = self.text()
                user[name] = self.text()
            elif width == "v":
                found[key] = self.variable()
            elif width:
                found[key] = self.number(width)
            else:
                found[key] = self.take(self.number(2))
        return found, user


class Upstream:
    """Listens on a port of its own. `answer(taken)` gives the reason code of a publish, or None for no answer at all.

    `connack`: properties of the CONNACK. What came is in `taken`, in order, refused ones too; `connects` holds the CONNECTs.
    """

    def __init__(self, answer=lambda taken: 0, *, connack=None, connect_code=0, port=0):
        self.answer, self.connack, self.connect_code = answer, connack or {}, connect_code
        self.taken, self.connects, self.subscriptions = [], [], []
        self.most_unanswered = 0
        self._numbers = itertools.count(1)
        self._writers = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", port))
        self.port = self._server.sockets[0].getsockname()[1]

    def _call(self, doing):
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(10)

    async def _serve(self, reader, writer):
        connection = next(self._numbers)
        self._writers[connection] = writer
        try:
            await self._talk(reader, writer, connection)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.pop(connection, None)
            writer.close()

    async def _packet(self, reader):
        (head,) = await reader.readexactly(1)
        length = shift = 0
        while True:
            (byte,) = await reader.readexactly(1)
            length |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return head >> 4, head & 15, _Input(await reader.readexactly(length))

    async def _talk(self, reader, writer, connection):
        version = 5
        unanswered = set()
        while True:
            kind, flags, body = await self._packet(reader)
            if kind == CONNECT:
                body.text()
                version = body.number(1)
                options, keep_alive = body.number(1), body.number(2)
                properties = body.properties()[0] if version == 5 else {}
                self.connects.append({"version": version, "clean": bool(options & 2), "keep_alive": keep_alive,
                                      "properties": properties, "client_id": body.text()})  # fmt: skip
                tail = encoded(self.connack) if version == 5 else b""
                self._send(writer, CONNACK, 0, bytes([0, self.connect_code]) + tail)
                if self.connect_code:
                    return
            elif kind == PUBLISH:
                taken = self._publish(connection, version, flags, body)
                if taken.qos:
                    unanswered.add(taken.packet_id)
                    self.most_unanswered = max(self.most_unanswered, len(unanswered))
                taken.code = self.answer(taken)
                self.taken.append(taken)
                if taken.code is None or not taken.qos:
                    continue
                self._acknowledge(writer, version, PUBACK if taken.qos == 1 else PUBREC, taken.packet_id, taken.code)
                if taken.qos == 1 or taken.code >= 0x80:
                    unanswered.discard(taken.packet_id)
            elif kind == PUBREL:
                packet_id = body.number(2)
                unanswered.discard(packet_id)
                self._acknowledge(writer, version, PUBCOMP, packet_id, 0)
            elif kind == SUBSCRIBE:
                self._subscribe(writer, version, body)
            elif kind == PINGREQ:
                self._send(writer, PINGRESP, 0, b"")
            elif kind == DISCONNECT:
                return
            await writer.drain()

    def _publish(self, connection, version, flags, body):
        topic = body.text()
        qos = flags >> 1 & 3
        packet_id = body.number(2) if qos else None
        user = body.properties()[1] if version == 5 else {}
        return Taken(connection, topic, body.body[body.at :], qos, bool(flags & 1), bool(flags & 8), packet_id, user)

    def _subscribe(self, writer, version, body):
        packet_id = body.number(2)
        if version == 5:
            body.properties()
        codes = bytearray()
        while body.at < len(body.body):
            self.subscriptions.append(body.text())
            codes.append(min(body.number(1) & 3, 1))
        self._send(writer, SUBACK, 0, struct.pack(">H", packet_id) + (b"\0" if version == 5 else b"") + codes)

    def _acknowledge(self, writer, version, kind, packet_id, code):
        body = struct.pack(">H", packet_id)
        self._send(writer, kind, 0, body if version == 4 or not code else body + bytes([code]))

    @staticmethod
    def _send(writer, kind, flags, body):
        writer.write(bytes([kind << 4 | flags]) + variable(len(body)) + body)

    # what the tests call

    def on(self, topic, *, accepted=True):
        return [one for one in list(self.taken) if one.topic == topic and (one.code == 0 or not accepted)]

    def send(self, topic, payload, *, qos=0, packet_id=1, retain=False, dup=False, version=5):
        """Publishes to every connection there is."""
        body = text(topic) + (struct.pack(">H", packet_id) if qos else b"") + (b"\0" if version == 5 else b"")
        flags = dup << 3 | qos << 1 | retain

        async def send():
            for writer in self._writers.values():
                self._send(writer, PUBLISH, flags, body + payload)

        self._call(send())

    def disconnect(self, code):
        """Ends every connection with a DISCONNECT of that reason."""

        async def end():
            for writer in list(self._writers.values()):
                self._send(writer, DISCONNECT, 0, bytes([code, 0]))
                writer.close()

        self._call(end())

    def cut(self):
        async def cut():
            for writer in list(self._writers.values()):
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
