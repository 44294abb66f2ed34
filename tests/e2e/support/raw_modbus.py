"""Modbus devices made of bare sockets and pseudo-terminals, so that each byte of an answer, and its moment, is the test's.

`behave(call)` is asked for each request and gives a list of steps: bytes to send, seconds to wait, `CLOSE`. The
frame around a PDU is made by `call.frame`, right unless the test spoils it.
"""

import os
import pty
import select
import socket
import struct
import threading
import time
import tty
from dataclasses import dataclass

from .wait import free_port

CLOSE = object()
LENGTHS = {1: 8, 2: 8, 3: 8, 4: 8, 5: 8, 6: 8, 22: 10}


def crc(data):
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ 0xA001 if value & 1 else value >> 1
    return struct.pack("<H", value)


@dataclass
class Call:
    """One request."""

    kind: str
    transaction: int
    unit: int
    pdu: bytes
    at: float

    @property
    def function(self):
        return self.pdu[0]

    @property
    def address(self):
        return struct.unpack(">H", self.pdu[1:3])[0]

    @property
    def count(self):
        return struct.unpack(">H", self.pdu[3:5])[0]

    def frame(self, pdu, *, unit=None, transaction=None):
        unit = self.unit if unit is None else unit
        if self.kind == "tcp":
            transaction = self.transaction if transaction is None else transaction
            return struct.pack(">HHHB", transaction, 0, len(pdu) + 1, unit) + pdu
        body = bytes([unit]) + pdu
        return body + crc(body)

    def registers(self, words):
        return bytes([self.function, 2 * len(words)]) + struct.pack(f">{len(words)}H", *words)

    def exception(self, code):
        return bytes([self.function | 0x80, code])


class RawDevice:
    """`kind` is `tcp`, `rtu_over_tcp` or `rtu`; `behave` runs in the device's thread, one request at a time."""

    def __init__(self, kind, behave, baud=115200):
        self.kind, self.behave, self.baud = kind, behave, baud
        self.calls = []
        self.connections = 0
        self.failure = None
        self._ends = threading.Event()
        if kind == "rtu":
            self._near, self._far = pty.openpty()
            tty.setraw(self._near)
            tty.setraw(self._far)
            self.path = os.ttyname(self._far)
        else:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def bus(self, name="bus", **keys):
        if self.kind == "rtu":
            where = [f'serial = "{self.path}"', f"baud = {self.baud}", 'parity = "none"', "stop_bits = 1"]
        else:
            where = [f'{self.kind} = "127.0.0.1:{self.port}"']
        settings = {"timeout_ms": 200, "retries": 1} | keys
        lines = ["[[modbus]]", f'name = "{name}"', *where, *(f"{key} = {value}" for key, value in settings.items())]
        return "\n".join(lines) + "\n"

    def close(self):
        self._ends.set()
        for thread in list(self._threads):
            thread.join(5)
        if self.kind == "rtu":
            os.close(self._near)
            os.close(self._far)
        else:
            self._listener.close()
        if self.failure:
            raise self.failure

    def _serve(self):
        if self.kind == "rtu":
            self._talk(self._near, lambda data: os.write(self._near, data), lambda: os.read(self._near, 512))
            return
        self._listener.settimeout(0.1)
        while not self._ends.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            self.connections += 1
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._connection, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _connection(self, connection):
        with connection:
            self._talk(connection.fileno(), connection.sendall, lambda: connection.recv(512))

    def _talk(self, descriptor, send, receive):
        received = b""
        try:
            while not self._ends.is_set():
                if not select.select([descriptor], [], [], 0.1)[0]:
                    continue
                more = receive()
                if not more:
                    return
                received += more
                while True:
                    call, received = self._cut(received)
                    if call is None:
                        break
                    self.calls.append(call)
                    for step in self.behave(call):
                        if step is CLOSE:
                            return
                        if isinstance(step, bytes):
                            send(step)
                        elif self._ends.wait(step):
                            return
        except OSError:
            return
        except Exception as failure:
            self.failure = failure

    def _cut(self, received):
        now = time.monotonic()
        if self.kind == "tcp":
            if len(received) < 6:
                return None, received
            transaction, _, length = struct.unpack(">HHH", received[:6])
            if len(received) < 6 + length:
                return None, received
            return Call("tcp", transaction, received[6], received[7 : 6 + length], now), received[6 + length :]
        if len(received) < 8:
            return None, received
        length = LENGTHS.get(received[1])
        if length is None:
            length = 9 + received[6] if received[1] in (15, 16) else 13 + received[10]
        if len(received) < length:
            return None, received
        frame = received[:length]
        assert frame[-2:] == crc(frame[:-2]), f"a request with a wrong checksum: {frame.hex()}"
        return Call(self.kind, 0, frame[0], frame[1:-2], now), received[length:]


__all__ = ["CLOSE", "Call", "RawDevice", "crc", "free_port"]
