"""P2: a crash loses at most the last commit window of samples, and nothing older."""

import os
import time
from datetime import datetime

from support.gateway import OPEN_BROKER
from support.modbus import Unit
from support.plant import device
from support.wait import until

ROUNDS = 20 if os.environ.get("FIELDGATE_LONG") else 4
WINDOW = 0.25
DISK = 0.5
"""What the commit itself may take on a busy machine, in seconds."""
UPLINK = """
[store]
commit_ms = 250
[[uplink]]
name = "cloud"
url = "mqtt://127.0.0.1:{upstream}"
forward = ["plant/#"]
"""


def instant(sample):
    return datetime.fromisoformat(sample["time"]).timestamp()


def test_p2_a_kill_loses_at_most_the_samples_of_one_commit_window(gateway, client, mosquitto, modbus_server, chance):
    server = modbus_server("tcp", {1: Unit(input={0: 0, 1: 0})})
    points = [f'name = "p{n}"\ninput = {n}\ntype = "u16"' for n in (0, 1)]
    mapping = server.bus() + device(points, interval=20, keys='topic = "plant/{device}/{point}"')
    cloud = mosquitto()
    started = gateway(OPEN_BROKER + UPLINK.format(upstream=cloud.port), mapping)
    seen, killed = {}, {}
    for _ in range(ROUNDS):
        started.start()
        live = client(started)
        live.subscribe("plant/#", qos=0)
        time.sleep(chance.uniform(0.8, 1.6))
        at = time.time()
        started.kill()
        until("the cut", lambda live=live: live.disconnected is not None)
        samples = [message.json for message in live.all()]
        assert samples, "no samples"
        for sample in samples:
            seen[sample["boot"], sample["seq"]] = instant(sample)
            killed[sample["boot"]] = at
    assert len(killed) == ROUNDS
    cloud.start()
    above = client(cloud)
    above.subscribe("plant/#")
    started.start()
    settled = len(above.all())
    until("the drain", lambda: {boot for boot, _ in arrived(above)} >= set(killed), timeout=60)
    while settled != (settled := len(backlog(above, killed))):
        time.sleep(2)
    lost = [(boot, seq, killed[boot] - at) for (boot, seq), at in seen.items() if (boot, seq) not in arrived(above)]
    late = [row for row in lost if row[2] > WINDOW + DISK]
    print(f"{len(seen)} samples seen, {len(lost)} lost, the oldest {max((row[2] for row in lost), default=0):.3f} s old")
    assert not late, f"lost though older than the window: {late[:10]}"
    assert len(lost) < len(seen) / 2, "nothing was stored"


def arrived(above):
    return {(sample["boot"], sample["seq"]) for sample in (message.json for message in above.all())}


def backlog(above, killed):
    return [mark for mark in arrived(above) if mark[0] in killed]
