"""MQTT 3.1.1 packets written by hand, for what no client library does on purpose."""

import socket


def _text(value):
    data = value.encode()
    return len(data).to_bytes(2, "big") + data


def _packet(kind, body):
    assert len(body) < 128
    return bytes([kind, len(body)]) + body


class RawClient:
    """A clean session on a plain connection; `close` drops it without DISCONNECT."""

    def __init__(self, port, client_id):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.sendall(_packet(0x10, _text("MQTT") + bytes([4, 2, 0, 60]) + _text(client_id)))
        assert self._read(4) == b"\x20\x02\x00\x00"

    def publish(self, topic, payload, packet_id, *, dup=False):
        """At QoS 1; returns once the PUBACK has come."""
        body = _text(topic) + packet_id.to_bytes(2, "big") + payload.encode()
        self.socket.sendall(_packet(0x32 | (8 if dup else 0), body))
        assert self._read(4) == b"\x40\x02" + packet_id.to_bytes(2, "big")

    def _read(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            assert more, f"the connection ended after {data!r}"
            data += more
        return data

    def close(self):
        self.socket.close()
