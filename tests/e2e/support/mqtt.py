"""MQTT clients nobody here wrote: paho in a thread, and mosquitto_pub/mosquitto_sub."""

import json
import subprocess
import threading
import time
import uuid
from dataclasses import dataclass, field

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from .wait import PATIENCE, until

V311 = paho.MQTTv311
V5 = paho.MQTTv5


@dataclass
class Received:
    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    at: float
    properties: object = None
    user: list = field(default_factory=list)

    @property
    def text(self):
        return self.payload.decode()

    @property
    def json(self):
        return json.loads(self.payload)


class Refused(AssertionError):
    """The broker answered CONNECT with a refusal, or closed without an answer."""


class Client:
    """A paho client whose events are collected; nothing is answered before it has arrived."""

    def __init__(
        self,
        port,
        *,
        client_id=None,
        version=V5,
        user=None,
        password=None,
        clean=True,
        expiry=3600,
        will=None,
        transport="tcp",
        tls=None,
        keep_alive=30,
        manual_ack=False,
    ):
        self.version = version
        self.client_id = client_id or f"test-{uuid.uuid4().hex[:12]}"
        self.messages = []
        self.subscribed = {}
        self.published = {}
        self.connack = None
        self.session_present = None
        self.disconnected = None
        self._lock = threading.Lock()
        self._clean, self._expiry, self._keep_alive = clean, expiry, keep_alive
        self._port = port
        options = {"clean_session": clean} if version != V5 else {}
        self._paho = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self.client_id,
            protocol=version,
            transport=transport,
            manual_ack=manual_ack,
            reconnect_on_failure=False,
            **options,
        )
        self._paho.max_queued_messages_set(0)
        self._paho.max_inflight_messages_set(20)
        if transport == "websockets":
            self._paho.ws_set_options(path="/mqtt")
        if tls:
            self._paho.tls_set(**tls)
        if user is not None:
            self._paho.username_pw_set(user, password)
        if will:
            self._paho.will_set(**will)
        self._paho.on_connect = self._on_connect
        self._paho.on_disconnect = self._on_disconnect
        self._paho.on_message = self._on_message
        self._paho.on_subscribe = self._on_subscribe
        self._paho.on_publish = self._on_publish

    # paho's callbacks, in its thread

    def _on_connect(self, _client, _data, flags, reason, _properties):
        self.session_present = flags.session_present
        self.connack = reason

    def _on_disconnect(self, _client, _data, _flags, reason, _properties):
        self.disconnected = reason

    def _on_message(self, _client, _data, message):
        properties = message.properties if self.version == V5 else None
        user = list(getattr(properties, "UserProperty", []) or [])
        received = Received(
            message.topic, message.payload, message.qos, message.retain, message.dup, time.monotonic(), properties, user
        )
        with self._lock:
            self.messages.append(received)

    def _on_subscribe(self, _client, _data, mid, reasons, _properties):
        self.subscribed[mid] = reasons

    def _on_publish(self, _client, _data, mid, reason, _properties):
        self.published[mid] = reason

    # what the tests call

    def connect(self):
        self.connack = self.disconnected = None
        arguments = {}
        if self.version == V5:
            arguments["clean_start"] = self._clean
            if not self._clean:
                properties = Properties(PacketTypes.CONNECT)
                properties.SessionExpiryInterval = self._expiry
                arguments["properties"] = properties
        self._paho.connect("127.0.0.1", self._port, keepalive=self._keep_alive, **arguments)
        self._paho.loop_start()
        try:
            until("a CONNACK", lambda: self.connack is not None or self.disconnected is not None)
        except AssertionError:
            self.drop()
            raise
        if self.connack is None or self.connack.is_failure:
            reason = self.connack if self.connack is not None else self.disconnected
            self.drop()
            raise Refused(str(reason))
        return self

    def subscribe(self, *filters, qos=1, expect_granted=True, **options):
        """Subscribes and waits for the SUBACK; its reason codes."""
        wanted = [(f, SubscribeOptions(qos=qos, **options) if self.version == V5 else qos) for f in filters]
        result, mid = self._paho.subscribe(wanted)
        assert result == MQTTErrorCode.MQTT_ERR_SUCCESS, result
        reasons = until(f"SUBACK for {filters}", lambda: self.subscribed.get(mid))
        if expect_granted:
            assert not any(reason.is_failure for reason in reasons), f"{filters}: {reasons}"
        return reasons

    def publish(self, topic, payload, *, qos=1, retain=False, properties=None, wait=True, timeout=PATIENCE):
        """Publishes; with `wait`, returns after PUBACK or PUBCOMP with its reason code."""
        if not isinstance(payload, (bytes, str)):
            payload = json.dumps(payload)
        info = self._paho.publish(topic, payload, qos, retain, properties=properties)
        assert info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS, info.rc
        if not wait:
            return info.mid
        return until(f"the acknowledgement of {topic}", lambda: self.published.get(info.mid), timeout)

    def acknowledged(self, mid):
        return mid in self.published

    def on(self, topic):
        """What has come on this topic."""
        with self._lock:
            return [message for message in self.messages if message.topic == topic]

    def all(self):
        with self._lock:
            return list(self.messages)

    def clear(self):
        with self._lock:
            self.messages.clear()

    def wait_for(self, topic, matches=lambda message: True, *, timeout=PATIENCE, what=None):
        """The first message on `topic` that `matches`, from the beginning or from the last `clear`."""

        def found():
            return next((message for message in self.on(topic) if matches(message)), None)

        try:
            return until(what or f"a message on {topic}", found, timeout)
        except AssertionError as failure:
            seen = [(m.topic, m.payload[:200]) for m in self.all()][-20:]
            raise AssertionError(f"{failure}; messages: {seen}") from None

    def wait_for_count(self, topic, count, timeout=PATIENCE):
        until(f"{count} messages on {topic}", lambda: len(self.on(topic)) >= count, timeout)
        return self.on(topic)

    def settle(self):
        """A round trip on a topic of its own: what the broker had to send before it has then come.

        Holds for a broker that keeps one client's messages in order.
        """
        topic = f"settle/{self.client_id}"
        marker = uuid.uuid4().hex
        self.subscribe(topic)
        self.publish(topic, marker)
        self.wait_for(topic, lambda message: message.text == marker)

    def disconnect(self):
        self._paho.disconnect()
        until("the end of the connection", lambda: self.disconnected is not None)
        self._paho.loop_stop()

    def drop(self):
        """Cuts the connection without DISCONNECT, as a cut cable does, and stops."""
        self._paho.loop_stop()
        sock = self._paho.socket()
        if sock is not None:
            try:
                sock.close()
            except OSError:
                pass

    @property
    def connected(self):
        return self._paho.is_connected()


def publish_properties(**properties):
    made = Properties(PacketTypes.PUBLISH)
    for name, value in properties.items():
        setattr(made, name, value)
    return made


def mosquitto_pub(port, topic, payload, *arguments):
    return subprocess.run(
        ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(port), "-t", topic, "-m", payload, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def mosquitto_sub(port, topic, *arguments, count=1, wait=10):
    """Runs mosquitto_sub until `count` messages came or `wait` seconds passed."""
    return subprocess.run(
        ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(port), "-t", topic, "-C", str(count), "-W", str(wait)]
        + list(map(str, arguments)),
        capture_output=True,
        text=True,
        timeout=wait + 10,
        check=False,
    )
