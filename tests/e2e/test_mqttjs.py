"""The broker by MQTT.js: `mqttjs/scenarios.cjs` holds what it does and expects; here stands the broker that it talks to.

FIELDGATE_MQTTJS names the folder with its `node_modules`; without it, or without node, these are skipped.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.certificates import authority, certificate
from support.wait import free_port
from test_broker import EVERYTHING, Access, broker  # noqa: F401 (a fixture)

SCRIPT = Path(__file__).parent / "mqttjs" / "scenarios.cjs"
MODULES = Path(os.environ.get("FIELDGATE_MQTTJS", Path.home() / ".cache/fieldgate/mqttjs")) / "node_modules"
SCENARIOS = re.findall(r"^  async (\w+)\(\)", SCRIPT.read_text(), re.MULTILINE)

pytestmark = pytest.mark.skipif(
    not shutil.which("node") or not (MODULES / "mqtt").is_dir(),
    reason=f"node or {MODULES / 'mqtt'} is missing: apt-get install nodejs npm; npm install mqtt",
)


def node(scenario, given):
    environment = {**os.environ, "NODE_PATH": str(MODULES)}
    done = subprocess.run(
        ["node", SCRIPT, scenario, json.dumps(given)], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_mqttjs(broker, tmp_path, scenario):  # noqa: F811
    ports = [free_port() for _ in range(4)]
    ca = authority(tmp_path / "pki")
    cert, key = certificate(tmp_path / "pki", "server", "localhost")
    tls = {"cert": cert, "key": key}
    broker(
        anonymous=EVERYTHING,
        users={"ann": Access(subscribe=["open/#"], publish=["open/#"], password="right")},
        listeners=[
            {"port": ports[0]},
            {"port": ports[1], "transport": "websocket"},
            {"port": ports[2], "tls": tls},
            {"port": ports[3], "transport": "websocket", "tls": tls},
        ],
    )
    host = "127.0.0.1"
    urls = {
        "tcp": f"mqtt://{host}:{ports[0]}",
        "ws": f"ws://{host}:{ports[1]}/mqtt",
        "tls": f"mqtts://{host}:{ports[2]}",
        "wss": f"wss://{host}:{ports[3]}/mqtt",
    }
    node(scenario, {"urls": urls, "ca": str(ca), "user": "ann", "password": "right"})
