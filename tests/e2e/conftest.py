"""Fixtures: each makes things for one test and ends them after it, newest first."""

import os
import shutil

import pytest

from support.gateway import Gateway, binary
from support.modbus import ModbusServer, Unit
from support.mosquitto import Mosquitto
from support.mqtt import Client

STAND_IN = os.environ.get("FIELDGATE_E2E_STAND_IN") == "mosquitto"
"""Runs the broker's tests against Mosquitto instead: what fails there is the test's own mistake."""


def pytest_configure(config):
    config.addinivalue_line("markers", "fieldgate_only: says something that only fieldgate promises")
    for tool in ("mosquitto", "mosquitto_pub", "mosquitto_sub", "socat", "openssl"):
        if not (shutil.which(tool) or os.path.exists(f"/usr/sbin/{tool}")):
            raise pytest.UsageError(f"{tool} is missing: apt-get install mosquitto mosquitto-clients socat openssl")
    os.environ["PATH"] += os.pathsep + "/usr/sbin"
    if not STAND_IN and not binary().exists():
        raise pytest.UsageError(f"{binary()} is missing: cargo build, or set FIELDGATE to the binary's path")


def pytest_collection_modifyitems(items):
    if STAND_IN:
        skip = pytest.mark.skip(reason="Mosquitto stands in for fieldgate in this run")
        for item in items:
            if item.module.__name__ not in ("test_broker", "test_harness") or item.get_closest_marker("fieldgate_only"):
                item.add_marker(skip)


class Ends:
    def __init__(self):
        self._ends = []

    def add(self, end):
        self._ends.append(end)

    def run(self):
        failures = []
        for end in reversed(self._ends):
            try:
                end()
            except Exception as failure:  # every one is ended, then the first failure is told
                failures.append(failure)
        if failures:
            raise failures[0]


@pytest.fixture
def ends():
    collected = Ends()
    yield collected
    collected.run()


@pytest.fixture
def gateway(tmp_path, ends):
    """Makes a gateway; not started."""

    def make(config=None, mapping="", *, name="gw", files=None, directory="gateway"):
        made = Gateway(tmp_path / directory, config, mapping, name=name, files=files)
        ends.add(made.close)
        return made

    return make


@pytest.fixture
def modbus_server(tmp_path, ends):
    """Makes and starts a pymodbus server."""

    def make(kind="tcp", units=None, **options):
        directory = tmp_path / f"modbus-{len(ends._ends)}"
        directory.mkdir()
        made = ModbusServer(kind, {1: Unit()} if units is None else units, directory, **options)
        ends.add(made.close)
        return made.start()

    return make


@pytest.fixture
def mosquitto(tmp_path, ends):
    """Makes a Mosquitto; not started."""

    def make(config="allow_anonymous true\n", *, directory="upstream", port=None):
        made = Mosquitto(tmp_path / directory, config, port=port)
        ends.add(made.close)
        return made

    return make


@pytest.fixture
def client(ends):
    """Connects an MQTT client to a port, or to something with a `port`."""

    def make(where, **options):
        made = Client(where if isinstance(where, int) else where.port, **options)
        ends.add(made.drop)
        return made.connect()

    return make
