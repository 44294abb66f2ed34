"""P4: a command acts at most once and never late, whatever becomes of the answers to its write, and gets one result.

A third of the answers is lost, late, damaged or an exception under a printed seed; every command writes a value of its
own, so that the device can tell how often each came.
"""

import os
import threading
import time
from collections import Counter

import pytest
from support.plant import device, running
from support.raw_modbus import RawDevice
from support.wait import until

TIMEOUT = 0.1
TTL = 1.5
COMMANDS = 400 if os.environ.get("FIELDGATE_LONG") else 60


class Actuator:
    """A register that keeps what is written, and the moment of each write."""

    def __init__(self, chance):
        self.chance = chance
        self.held = 0
        self.writes = []
        self.device = None

    def behave(self, call):
        if call.function == 6:
            self.held = call.count
            self.writes.append((self.held, call.at))
            answer = call.frame(call.pdu)
        else:
            answer = call.frame(call.registers([self.held] * call.count))
        if self.chance.random() > 0.33:
            return [answer]
        fault = self.chance.choice(["lost", "late", "damaged", "exception"])
        if fault == "late":
            threading.Timer(TIMEOUT * 1.5, lambda: self._send(answer)).start()
        elif fault == "damaged":
            return [answer[:-1] + bytes([answer[-1] ^ 1])] if call.kind != "tcp" else [answer[:6] + b"\xf7" + answer[7:]]
        elif fault == "exception":
            return [call.frame(call.exception(4))]
        return []

    def _send(self, data):
        try:
            self.device.send(data)
        except OSError:
            pass  # the gateway gave the connection up


class SendingDevice(RawDevice):
    send = staticmethod(lambda data: None)

    def _talk(self, descriptor, send, receive):
        self.send = send
        super()._talk(descriptor, send, receive)


@pytest.mark.parametrize("kind", ["rtu", "rtu_over_tcp", "tcp"])
def test_a_command_is_written_once_at_most_in_its_time_and_answered_once(gateway, client, chance, ends, kind):
    actuator = Actuator(chance)
    actuator.device = SendingDevice(kind, actuator.behave)
    ends.add(actuator.device.close)
    point = f'name = "x"\nholding = 0\ntype = "u16"\nwrite = {{ min = 0, max = 60000, ttl_ms = {int(TTL * 1000)} }}'
    mapping = actuator.device.bus(timeout_ms=int(TIMEOUT * 1000), retries=1) + device([point], name="d1", interval=200)
    _, listener = running(gateway, client, mapping)
    listener.wait_for("gw/d1/x", lambda m: m.json["value"] is not None)
    sent = {}
    for value in range(1, COMMANDS + 1):
        sent[value] = time.monotonic()
        listener.publish("gw/d1/x/set", f'{{"value": {value}, "id": "{value}"}}')
        time.sleep(0.05)

    def results():
        return [m.json for m in listener.on("gw/d1/x/set/result")]

    until("a result of every command", lambda: len(results()) >= COMMANDS, timeout=TTL + 15)
    time.sleep(TIMEOUT * 3)
    assert Counter(int(result["id"]) for result in results()) == Counter(range(1, COMMANDS + 1))
    times = Counter(value for value, _ in actuator.writes)
    assert set(times) <= set(sent) and all(count == 1 for count in times.values()), times
    late = [value for value, at in actuator.writes if at > sent[value] + TTL + 0.2]
    assert not late, f"written after their time: {late}"
    by_status = {int(result["id"]): result["status"] for result in results()}
    assert all(value in times for value, status in by_status.items() if status == "done")
    assert all(value not in times for value, status in by_status.items() if status in ("rejected", "expired"))
    print(kind, Counter(by_status.values()), f"{len(actuator.writes)} writes")
    assert Counter(by_status.values())["done"] > COMMANDS / 4
