"""A paho client that publishes numbers, many at once, over any number of cuts, and knows which were acknowledged."""

import threading
import time
from collections import deque
from dataclasses import dataclass, field

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MessageState
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

OUTSTANDING = 400
BURST = 20
RESEND_WITHIN = 0.05


class _Paho(paho.Client):
    """paho 2.2.0 sends a QoS 2 message again that has its PUBREC, after two attempts to connect in a row that failed."""

    def _messages_reconnect_reset_out(self):
        released = [m for m in self._out_messages.values() if m.state == MessageState.MQTT_MS_RESEND_PUBREL]
        super()._messages_reconnect_reset_out()
        for message in released:
            message.state = MessageState.MQTT_MS_RESEND_PUBREL


@dataclass
class Lane:
    """One topic, always with the same QoS: MQTT promises order for these only."""

    topic: str
    qos: int
    sent: int = 0
    acknowledged: set = field(default_factory=set)
    refused: set = field(default_factory=set)
    resent: set = field(default_factory=set)
    """Unacknowledged when a connection ended: paho sends them again, so that QoS 1 may come twice."""


class Publisher:
    """Its session lives over cuts, as MQTT wants it for QoS 2. At most `per_sec`, payloads of `size` bytes."""

    def __init__(self, port, lanes, *, version=paho.MQTTv5, per_sec=1000, size=40, client_id=None):
        self.port, self.lanes, self.per_sec, self.size = port, lanes, per_sec, size
        self.paused = False
        self.cuts = 0
        self._events = deque()
        self._waiting = {}
        self._stopping = False
        self._settled = None
        options = {"clean_session": False} if version != paho.MQTTv5 else {}
        self._paho = _Paho(
            CallbackAPIVersion.VERSION2, client_id=client_id or f"publisher-{id(self)}", protocol=version, **options
        )
        self._paho.max_inflight_messages_set(OUTSTANDING)
        self._paho.max_queued_messages_set(0)
        self._paho.reconnect_delay_set(0.03, 0.1)
        self._paho.on_publish = lambda _c, _d, mid, reason, _p: self._events.append((mid, reason.is_failure))
        self._paho.on_disconnect = self._on_disconnect
        self._paho.on_connect = self._on_connect
        self._connect_options = {}
        if version == paho.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 3600
            self._connect_options = {"clean_start": False, "properties": properties}
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self):
        self._paho.connect("127.0.0.1", self.port, keepalive=20, **self._connect_options)
        self._paho.loop_start()
        self._thread.start()
        return self

    def _on_connect(self, *_):
        self._settled = time.monotonic() + RESEND_WITHIN

    def _on_disconnect(self, *_):
        self._settled = None
        self._events.append(None)

    def _may_publish(self):
        """paho sends what is new before what it has to send again, where it is called before it did that."""
        settled = self._settled
        return not self.paused and settled is not None and settled < time.monotonic()

    def _run(self):
        number = 0
        while not self._stopping or self._waiting:
            self._reconcile()
            if self._stopping or not self._may_publish() or len(self._waiting) + BURST > OUTSTANDING:
                time.sleep(0.005)
                continue
            for _ in range(BURST):
                lane = self.lanes[number % len(self.lanes)]
                number += 1
                payload = f"{lane.sent:08}".ljust(self.size, ".")
                info = self._paho.publish(lane.topic, payload, lane.qos)
                self._waiting[info.mid] = (lane, lane.sent)
                lane.sent += 1
            time.sleep(BURST / self.per_sec)

    def _reconcile(self):
        while self._events:
            event = self._events.popleft()
            if event is None:
                self.cuts += 1
                for lane, number in self._waiting.values():
                    lane.resent.add(number)
                continue
            mid, failed = event
            lane, number = self._waiting.pop(mid)
            (lane.refused if failed else lane.acknowledged).add(number)

    @property
    def outstanding(self):
        return len(self._waiting)

    def finish(self, timeout=60):
        """Publishes no more, and waits until everything is answered."""
        self._stopping = True
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"{len(self._waiting)} publishes are not answered after {timeout} s"

    def close(self):
        self._stopping = True
        self._waiting.clear()
        self._thread.join(5)
        self._paho.disconnect()
        self._paho.loop_stop()


__all__ = ["Lane", "Publisher"]
