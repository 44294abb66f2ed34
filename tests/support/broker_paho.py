"""paho-mqtt against the broker: arguments are its TCP and WebSocket ports. Exits 1 at the first disagreement."""

import sys
import threading
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

TCP, WEB = int(sys.argv[1]), int(sys.argv[2])
V4, V5 = mqtt.MQTTv311, mqtt.MQTTv5


class Client:
    """A client whose messages and answers can be waited for."""

    def __init__(self, name="", version=V5, transport="tcp", clean=True, expiry=None, will=None, keep=60):
        arguments = {"clean_session": clean} if version == V4 else {}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, name, protocol=version, transport=transport, reconnect_on_failure=False, **arguments
        )
        self.version, self.messages, self.acks, self.subacks = version, [], {}, {}
        self.connack, self.ended = None, None
        self.up, self.down = threading.Event(), threading.Event()
        c = self.client
        c.on_message = lambda _c, _u, m: self.messages.append(m)
        c.on_connect = lambda _c, _u, f, r, p: (setattr(self, "connack", (f, r, p)), self.up.set())
        c.on_disconnect = lambda _c, _u, f, r, p: (setattr(self, "ended", r), self.down.set())
        c.on_publish = lambda _c, _u, mid, r, p: self.acks.__setitem__(mid, r)
        c.on_subscribe = lambda _c, _u, mid, r, p: self.subacks.__setitem__(mid, r)
        if will:
            c.will_set(**will)
        properties = None
        if version == V5 and expiry is not None:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = expiry
        more = {"clean_start": clean, "properties": properties} if version == V5 else {}
        c.connect("127.0.0.1", WEB if transport == "websockets" else TCP, keepalive=keep, **more)
        c.loop_start()
        assert self.up.wait(5), "no CONNACK"

    def subscribe(self, *args, **kw):
        _, mid = self.client.subscribe(*args, **kw)
        until(lambda: mid in self.subacks, "SUBACK")
        return self.subacks[mid]

    def publish(self, *args, **kw):
        info = self.client.publish(*args, **kw)
        info.wait_for_publish(5)
        until(lambda: info.mid in self.acks, "acknowledgement")
        return self.acks[info.mid]

    def payloads(self):
        return [m.payload.decode() for m in self.messages]

    def leave(self):
        self.client.disconnect()
        self.down.wait(5)
        self.client.loop_stop()

    def cut(self):
        self.client._sock_close()
        self.client.loop_stop()


def until(condition, what, seconds=5):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.005)


def same(found, expected, what):
    assert found == expected, f"{what}: {found!r}, expected {expected!r}"


def every_qos_and_transport():
    for transport in ("tcp", "websockets"):
        for version in (V4, V5):
            a = Client(version=version, transport=transport)
            a.subscribe("q/#", 2)
            big = "x" * 100_000
            for qos in (0, 1, 2):
                a.publish(f"q/{qos}", f"m{qos}", qos=qos)
                a.publish(f"q/{qos}", big, qos=qos)
            until(lambda: len(a.messages) == 6, "six messages")
            same([(m.qos, len(m.payload)) for m in a.messages], [(0, 2), (0, 100_000), (1, 2), (1, 100_000), (2, 2), (2, 100_000)], "QoS")
            a.leave()


def retained():
    for version in (V4, V5):
        a = Client(version=version)
        a.publish("r/1", "kept", qos=1, retain=True)
        a.subscribe("r/#", 1)
        until(lambda: a.messages, "the retained message")
        same([(m.payload, m.retain) for m in a.messages], [(b"kept", True)], "retained")
        a.publish("r/1", "live", qos=1, retain=True)
        until(lambda: len(a.messages) == 2, "the live message")
        same(a.messages[1].retain, False, "a live message's retain flag")
        a.publish("r/1", "", qos=1, retain=True)
        a.leave()
        b = Client(version=version)
        b.subscribe("r/#", 1)
        b.publish("r/end", "end", qos=1)
        until(lambda: b.messages, "the end")
        same(b.payloads(), ["end"], "an emptied topic")
        b.leave()
    a = Client()
    a.publish("rh", "1", qos=1, retain=True)
    a.subscribe("rh", options=SubscribeOptions(qos=1, retainHandling=2))
    a.subscribe("rh", options=SubscribeOptions(qos=1, retainHandling=1))
    a.publish("rh", "2", qos=1)
    a.subscribe("rh", options=SubscribeOptions(qos=1, retainAsPublished=True))
    a.publish("rh", "3", qos=1, retain=True)
    until(lambda: len(a.messages) >= 3, "handling")
    same([(m.payload, m.retain) for m in a.messages], [(b"2", False), (b"1", True), (b"3", True)], "retain handling")
    a.publish("rh", "", retain=True, qos=1)
    a.leave()


def sessions():
    for version in (V4, V5):
        name = f"session-{version}"
        how = dict(version=version, clean=False, expiry=600)
        a = Client(name, **how)
        same(a.connack[0].session_present, False, "a new session")
        a.subscribe("s/#", 2)
        a.cut()
        b = Client(version=version)
        for number in range(300):
            b.publish("s/x", str(number), qos=1 + number % 2)
        a = Client(name, **how)
        same(a.connack[0].session_present, True, "the session")
        until(lambda: len(a.messages) == 300, f"the queue, {len(a.messages)}")
        # A client shows a QoS 2 message when its handshake is over: each QoS has an order of its own.
        for qos in (1, 2):
            found = [int(m.payload) for m in a.messages if m.qos == qos]
            same(found, [number for number in range(300) if 1 + number % 2 == qos], "order")
        second = Client(name, **how)
        assert a.down.wait(5), "taken over"
        if version == V5:
            same(a.ended.value, 0x8E, "take-over's reason")
        second.leave()
        same(Client(name, version=version, clean=True).connack[0].session_present, False, "a clean start")
        b.leave()


def wills():
    for version in (V4, V5):
        watcher = Client(version=version)
        watcher.subscribe("will/#", 1)
        gone = Client(version=version, will=dict(topic="will/1", payload="gone", qos=1))
        gone.cut()
        until(lambda: watcher.payloads() == ["gone"], "the will")
        Client(version=version, will=dict(topic="will/1", payload="never", qos=1)).leave()
        watcher.publish("will/end", "end", qos=1)
        until(lambda: len(watcher.messages) == 2, "the end")
        same(watcher.payloads(), ["gone", "end"], "no will after DISCONNECT")
        watcher.leave()


def properties_of_5():
    a = Client()
    properties = Properties(PacketTypes.SUBSCRIBE)
    properties.SubscriptionIdentifier = 7
    a.subscribe("p/#", options=SubscribeOptions(qos=1), properties=properties)
    properties = Properties(PacketTypes.SUBSCRIBE)
    properties.SubscriptionIdentifier = 9
    a.subscribe("p/+", options=SubscribeOptions(qos=0), properties=properties)
    sent = Properties(PacketTypes.PUBLISH)
    sent.UserProperty = [("b", "1"), ("a", "2"), ("b", "3")]
    sent.ContentType, sent.ResponseTopic, sent.CorrelationData = "text/plain", "answers/me", b"\x00\x01"
    sent.PayloadFormatIndicator, sent.MessageExpiryInterval, sent.TopicAlias = 1, 100, 3
    a.publish("p/1", "hello", qos=1, properties=sent)
    until(lambda: a.messages, "the message")
    got = a.messages[0].properties
    same(got.UserProperty, [("b", "1"), ("a", "2"), ("b", "3")], "user properties")
    same((got.ContentType, got.ResponseTopic, got.CorrelationData), ("text/plain", "answers/me", b"\x00\x01"), "request")
    same((got.PayloadFormatIndicator, sorted(got.SubscriptionIdentifier)), (1, [7, 9]), "format and identifiers")
    assert 98 <= got.MessageExpiryInterval <= 100, got.MessageExpiryInterval
    same(len(a.messages), 1, "overlapping subscriptions")
    aliased = Properties(PacketTypes.PUBLISH)
    aliased.TopicAlias = 3
    a.client.publish("", "again", qos=1, properties=aliased)
    until(lambda: len(a.messages) == 2, "the aliased message")
    same(a.messages[1].topic, "p/1", "the alias")
    a.subscribe("nl", options=SubscribeOptions(qos=1, noLocal=True))
    a.publish("nl", "mine", qos=1)
    b = Client()
    b.publish("nl", "theirs", qos=1)
    until(lambda: len(a.messages) == 3, "no local")
    same(a.payloads()[2], "theirs", "no local")
    same(a.publish("fieldgate/pi-1/x", "no", qos=1).value, 0x87, "the gateway's own topics")
    # paho answers even a refusing PUBREC with PUBREL, so what it shows is PUBCOMP's "packet identifier not found".
    same(a.publish("secret/x", "no", qos=2).value, 0x92, "a denied topic")
    same(a.subscribe("secret/#", 1)[0].value, 0x87, "a denied subscription")
    assert a.connack[2].AssignedClientIdentifier, "assigned client id"
    a.leave()
    b.leave()


def shared():
    members = [Client() for _ in range(3)]
    for member in members:
        member.subscribe("$share/group/sh/#", 1)
    a = Client()
    for number in range(30):
        a.publish("sh/x", str(number), qos=1)
    until(lambda: sum(len(member.messages) for member in members) == 30, "all of them")
    same([len(member.messages) for member in members], [10, 10, 10], "turns")
    for client in [a, *members]:
        client.leave()


def broken():
    a = Client()
    a.client._send_publish(1, b"a/#", b"x", 1)
    assert a.down.wait(5), "a wildcard in a topic"
    same(a.ended.value, 0x90, "its reason")
    quiet = Client(keep=1)
    quiet.client.loop_stop()
    time.sleep(2.2)
    quiet.client.loop_start()
    assert quiet.down.wait(3), "keep alive"


for check in (every_qos_and_transport, retained, sessions, wills, properties_of_5, shared, broken):
    check()
    print(check.__name__, "ok", flush=True)
