"""The promises' tests stand on the scenario tests' support: same gateway, same clients, same servers."""

import importlib.util
import os
import random
import sys
from pathlib import Path

import pytest

SCENARIOS = Path(__file__).resolve().parents[1] / "e2e"
sys.path[:0] = [str(SCENARIOS), str(Path(__file__).resolve().parent)]

_spec = importlib.util.spec_from_file_location("scenario_fixtures", SCENARIOS / "conftest.py")
_scenarios = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_scenarios)
pytest_configure = _scenarios.pytest_configure
ends, gateway, client = _scenarios.ends, _scenarios.gateway, _scenarios.client
modbus_server, mosquitto = _scenarios.modbus_server, _scenarios.mosquitto

from kit.proxy import Proxy  # noqa: E402  (needs the paths above)
from kit.publisher import Publisher  # noqa: E402


@pytest.fixture
def seed():
    """`FIELDGATE_SEED` repeats a run; it is printed, and a failure shows it."""
    number = int(os.environ.get("FIELDGATE_SEED", random.SystemRandom().randrange(2**32)))
    print(f"FIELDGATE_SEED={number}")
    return number


@pytest.fixture
def chance(seed):
    return random.Random(seed)


@pytest.fixture
def proxy(ends):
    """Makes a TCP proxy to a port."""

    def make(port):
        made = Proxy(port)
        ends.add(made.close)
        return made

    return make


@pytest.fixture
def publisher(ends):
    """Makes and starts a publisher."""

    def make(port, lanes, **options):
        made = Publisher(port, lanes, **options)
        ends.add(made.close)
        return made.start()

    return make
