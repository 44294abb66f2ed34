"""Requests by ISO-TP (OBD-II, UDS) against ECUs that nobody here wrote: can-isotp and udsoncan's server side."""

import threading
import time

import isotp
import pytest

from support.wait import until

HEAD = """
[[can]]
name = "v"
interface = "vcan0"
topic = "car/{signal}"
"""

STATUS = "fieldgate/gw/bus/v"


def request(name, asked, answer='{ offset = 2, type = "u8" }', send="0x7DF", receive="0x7E8", more=""):
    return f"""
[[can.request]]
name = "{name}"
send = {send}
receive = {receive}
request = "{asked}"
answer = {answer}
interval_ms = 300
{more}
"""


class Ecu(threading.Thread):
    """Answers by a dictionary: request bytes to one answer, several in turn, or a function of how often it was asked."""

    def __init__(self, bus, rx, tx, answers, functional=None, bits=isotp.AddressingMode.Normal_11bits, **params):
        super().__init__(daemon=True)
        self.answers = answers
        self.asked = []
        self.stopped = False
        options = {"stmin": 0, "blocksize": 0, "tx_padding": 0xAA, **params}
        address = isotp.Address(bits, rxid=rx, txid=tx)
        self.stacks = [isotp.CanStack(bus(), address=address, params=options)]
        if functional is not None:
            listen = isotp.Address(bits, rxid=functional, txid=tx)
            self.stacks.append(isotp.CanStack(bus(), address=listen, params=options))
        self.start()

    def run(self):
        main = self.stacks[0]
        while not self.stopped:
            for stack in self.stacks:
                stack.process()
                message = stack.recv()
                if message is None:
                    continue
                message = bytes(message)
                self.asked.append(message)
                answer = self.answers.get(message)
                if callable(answer):
                    answer = answer(self.asked.count(message))
                for part in answer if isinstance(answer, list) else [answer]:
                    if isinstance(part, float):
                        time.sleep(part)
                    elif part is not None:
                        main.send(part)
                        while main.transmitting() and not self.stopped:
                            main.process()
                            time.sleep(0.0005)
            time.sleep(0.001)


@pytest.fixture
def ecu(bus, ends):
    def make(answers, rx=0x7E0, tx=0x7E8, functional=0x7DF, **options):
        made = Ecu(bus, rx, tx, answers, functional, **options)

        def end():
            made.stopped = True
            made.join()

        ends.add(end)
        return made

    return make


def value(expected):
    return lambda message: message.json["value"] == expected


def fault(expected):
    return lambda message: message.json.get("fault") == expected


VIN = b"1D4GP00R55B123456"


def test_speed_engine_speed_and_vin(watch, ecu):
    ecu({b"\x01\x0d": b"\x41\x0d\x78", b"\x01\x0c": b"\x41\x0c\x1a\xf8", b"\x09\x02": b"\x49\x02\x01" + VIN})
    client = watch(
        HEAD
        + request("speed", "01 0D", more='unit = "km/h"')
        + request("engine", "010C", '{ offset = 2, type = "u16" }', more="scale = 0.25")
        + request("vin", "09 02", '{ offset = 3, type = "string" }')
    )
    assert client.wait_for("car/speed", value(120)).json["unit"] == "km/h"
    client.wait_for("car/engine", value(1726))
    client.wait_for("car/vin", value(VIN.decode()))
    client.wait_for_count("car/vin", 3)


@pytest.mark.parametrize("params", [{"blocksize": 2, "stmin": 5}, {"tx_padding": None}])
def test_long_requests_and_answers(watch, ecu, params):
    asked = bytes([0x22, *range(1, 31)])
    data = bytes(index % 251 for index in range(3000))
    peer = ecu({asked: b"\x62\x01\x02" + data}, functional=None, **params)
    text = " ".join(f"{byte:02X}" for byte in asked)
    client = watch(
        HEAD
        + request("last", text, '{ offset = 3001, type = "u16" }', send="0x7E0", more="timeout_ms = 3000")
        + request("first", text, '{ offset = 3, type = "u16" }', send="0x7E0", more="timeout_ms = 3000")
    )
    client.wait_for("car/last", value(int.from_bytes(data[2998:], "big")))
    client.wait_for("car/first", value(1))
    client.wait_for_count("car/last", 2, timeout=30)
    assert set(peer.asked) == {asked}


def test_extended_identifiers(watch, ecu):
    ecu(
        {b"\x01\x0d": b"\x41\x0d\x2a", b"\x09\x02": b"\x49\x02\x01" + VIN},
        rx=0x18DA10F1,
        tx=0x18DAF110,
        functional=0x18DB33F1,
        bits=isotp.AddressingMode.Normal_29bits,
    )
    ids = {"send": "0x18DB33F1", "receive": "0x18DAF110", "more": "extended = true"}
    client = watch(
        HEAD + request("speed", "01 0D", **ids) + request("vin", "09 02", '{ offset = 3, type = "string" }', **ids)
    )
    client.wait_for("car/speed", value(42))
    client.wait_for("car/vin", value(VIN.decode()))


def test_negative_responses_pending_and_silence(watch, ecu):
    peer = ecu(
        {
            b"\x22\xf4\x0d": b"\x7f\x22\x31",
            b"\x22\xf4\x05": [b"\x7f\x22\x78", 0.6, b"\x7f\x22\x78", 0.6, b"\x62\xf4\x05\x5a"],
            b"\x22\xf1\x90": b"\x7f\x22\x13",
        },
        functional=None,
    )
    uds = {"send": "0x7E0"}
    client = watch(
        HEAD
        + request("refused", "22 F4 0D", '{ offset = 3, type = "u8" }', **uds)
        + request("slow", "22 F4 05", '{ offset = 3, type = "u8" }', **uds)
        + request("odd", "22 F1 90", '{ offset = 3, type = "u8" }', **uds)
        + request("quiet", "22 F4 0C", '{ offset = 3, type = "u8" }', **uds)
    )
    client.wait_for("car/slow", value(0x5A))
    assert client.wait_for("car/refused").json["fault"] == "illegal_address"
    assert client.wait_for("car/odd").json["fault"].startswith("exception")
    assert client.wait_for("car/quiet").json["fault"] == "timeout"
    client.wait_for_count("car/slow", 3, timeout=40)
    assert {message.json["value"] for message in client.on("car/slow")} == {0x5A}
    assert len(client.on("car/refused")) == 1 and len(client.on("car/quiet")) == 1, "a fault is told once"
    slow = peer.asked.count(b"\x22\xf4\x05")
    assert slow >= 3
    # Counters alone are told every ten seconds.
    counted = lambda message: message.json["exceptions"] >= 2 and message.json["timeouts"] >= 1
    client.wait_for(STATUS, counted, timeout=25)


def test_several_ecus_answer_one_request_and_one_comes_back(watch, ecu):
    engine = ecu({b"\x01\x0c": b"\x41\x0c\x10\x00", b"\x09\x02": b"\x49\x02\x01" + VIN})
    gearbox = ecu({b"\x01\x0c": b"\x41\x0c\x20\x00", b"\x09\x02": b"\x49\x02\x01" + VIN[::-1]}, rx=0x7E1, tx=0x7E9)
    two_bytes = '{ offset = 2, type = "u16" }'
    text = '{ offset = 3, type = "string" }'
    client = watch(
        HEAD
        + request("a", "01 0C", two_bytes)
        + request("b", "01 0C", two_bytes, receive="0x7E9")
        + request("vin-a", "09 02", text)
        + request("vin-b", "09 02", text, receive="0x7E9")
    )
    client.wait_for("car/a", value(0x1000))
    client.wait_for("car/b", value(0x2000))
    client.wait_for("car/vin-a", value(VIN.decode()))
    client.wait_for("car/vin-b", value(VIN[::-1].decode()))
    assert engine.asked.count(b"\x01\x0c") - gearbox.asked.count(b"\x01\x0c") in (-1, 0, 1), "asked once for both"
    answers, gearbox.answers = gearbox.answers, {}
    client.clear()
    client.wait_for("car/b", fault("timeout"))
    client.wait_for("car/a", value(0x1000))
    gearbox.answers = answers
    client.wait_for("car/b", value(0x2000))


def test_pacing_and_a_quiet_bus_takes_little(watch, candump):
    log = candump("vcan0,7DF:7FF")
    watch(HEAD + request("speed", "01 0D"))
    time.sleep(6)
    stamps = log.times()
    assert 3 <= len(stamps) <= 14, "a silent bus is asked less and less often"
    assert stamps[-1] - stamps[-2] > 0.5


def test_the_interval_is_kept(watch, ecu, candump):
    ecu({b"\x01\x0d": b"\x41\x0d\x78"})
    log = candump("vcan0,7DF:7FF")
    watch(HEAD + request("speed", "01 0D"))
    until("thirteen requests", lambda: len(log.times()) >= 13)
    stamps = log.times()
    mean = (stamps[12] - stamps[2]) / 10
    assert 0.28 < mean < 0.36, mean
