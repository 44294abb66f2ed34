"""Runs inside the guest that `tests/vm/uml` starts: vcan0 and vcan1 are there and up, each test leaves them so."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import can
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

from support.gateway import Gateway  # noqa: E402
from support.mqtt import Client  # noqa: E402

VEHICLE_DBC = (Path(__file__).parent / "vehicle.dbc").read_text()


class Ends:
    def __init__(self):
        self._ends = []

    def add(self, end):
        self._ends.append(end)

    def run(self):
        for end in reversed(self._ends):
            end()


@pytest.fixture
def ends():
    collected = Ends()
    yield collected
    collected.run()


class Interface:
    """One vcan interface."""

    def __init__(self, name):
        self.name = name

    def ip(self, *arguments):
        subprocess.run(["ip", "link", *arguments], check=True)

    def up(self):
        self.ip("set", self.name, "up")

    def down(self):
        self.ip("set", self.name, "down")

    def add(self):
        self.ip("add", self.name, "type", "vcan")
        self.ip("set", self.name, "mtu", "72", "up")

    def remove(self):
        self.ip("del", self.name)

    def send(self, *frames):
        for frame in frames:
            subprocess.run(["cansend", self.name, frame], check=True)


@pytest.fixture
def vcan():
    interface = Interface("vcan0")
    yield interface
    known = subprocess.run(["ip", "link", "show", "vcan0"], capture_output=True, check=False)
    if known.returncode != 0:
        interface.add()
    interface.ip("set", "vcan0", "mtu", "72", "up")


class Log:
    """What candump hears on an interface, as `candump -L` prints it."""

    def __init__(self, *filters):
        self._child = subprocess.Popen(
            ["stdbuf", "-oL", "candump", "-L", *filters], stdout=subprocess.PIPE, text=True
        )
        self.lines = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._child.stdout:
            self.lines.append(line.split())

    def frames(self):
        return [words[2] for words in list(self.lines)]

    def times(self):
        return [float(words[0].strip("()")) for words in list(self.lines)]

    def close(self):
        self._child.terminate()
        self._child.wait()


@pytest.fixture
def candump(ends):
    """Starts candump and waits until it listens."""

    def make(*filters):
        log = Log(*(filters or ("vcan0",)))
        ends.add(log.close)
        time.sleep(0.3)
        return log

    return make


@pytest.fixture
def bus(ends):
    """A python-can bus."""

    def make(channel="vcan0", **options):
        made = can.Bus(interface="socketcan", channel=channel, **options)
        ends.add(made.shutdown)
        return made

    return make


@pytest.fixture
def gateway(tmp_path, ends):
    """Makes a gateway with vehicle.dbc beside its mapping; not started."""

    def make(mapping, config=None, files=None):
        files = {"mappings/vehicle.dbc": VEHICLE_DBC, **(files or {})}
        made = Gateway(tmp_path / "gateway", config, mapping, files=files)
        ends.add(made.close)
        return made

    return make


@pytest.fixture
def watch(gateway, ends):
    """Starts a gateway with this mapping and a client that sees everything; the client waits until the bus is up."""

    def make(mapping, up=True, **options):
        made = gateway(mapping, **options).start()
        client = Client(made.port)
        ends.add(client.drop)
        client.connect().subscribe("#")
        client.gateway = made
        if up:
            client.wait_for("fieldgate/gw/bus/v", lambda message: message.json["state"] == "up")
        return client

    return make
