"""P7: a bound that is reached has its policy, is counted and shown; a disk that takes nothing stops nothing else."""

import socket

import pytest
from kit.disk import SmallDisk, may_mount
from support.gateway import OPEN_BROKER
from support.modbus import Unit
from support.mqtt import V311
from support.plant import device
from support.wait import free_port, until

BACK = 40
UPLINK = """
[[uplink]]
name = "cloud"
url = "mqtt://127.0.0.1:{upstream}"
forward = ["plant/#", "gw/#"]
drain_per_sec = 100000
{keys}
"""


def published(client, count, size=1000):
    """The numbers that were acknowledged without a refusal."""
    mids = {client.publish("plant/x", f"{n:06}".ljust(size, "."), wait=False): n for n in range(count)}
    until("every acknowledgement", lambda: all(client.acknowledged(mid) for mid in mids), timeout=BACK)
    return [n for mid, n in mids.items() if not client.published[mid].is_failure]


def shown(listener, topic="fieldgate/gw/uplink/cloud"):
    messages = listener.on(topic)
    return messages[-1].json if messages else {}


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
def test_p7_a_full_queue_drops_by_its_policy_and_counts_what_it_drops(gateway, client, mosquitto, policy):
    cloud = mosquitto()
    keys = f'max_bytes = 100000\nwhen_full = "{policy}"'
    started = gateway(OPEN_BROKER + UPLINK.format(upstream=cloud.port, keys=keys)).start()
    local = client(started)
    local.subscribe("fieldgate/#")
    taken = published(local, 300)
    until("what was dropped, on the uplink's topic", lambda: shown(local).get("dropped", 0) > 0, timeout=BACK)
    cloud.start()
    above = client(cloud)
    above.subscribe("plant/#")
    until("an empty queue", lambda: shown(local).get("rows") == 0 and above.all(), timeout=BACK)
    above.settle()
    kept = [int(message.payload[:6]) for message in above.on("plant/x")]
    assert kept == sorted(set(kept))
    assert 50 <= len(kept) <= 100
    assert kept[-1] == 299 if policy == "drop_oldest" else kept[0] == 0 and kept[-1] < 100
    dropped = until("the last count", lambda: shown(local)["rows"] == 0 and shown(local)["dropped"], timeout=BACK)
    assert len(set(taken) - set(kept)) == dropped


def test_p7_one_dead_uplink_takes_no_room_from_another(gateway, client, mosquitto):
    cloud = mosquitto().start()
    dead = UPLINK.format(upstream=free_port(), keys="max_bytes = 50000").replace('"cloud"', '"dead"')
    started = gateway(OPEN_BROKER + dead + UPLINK.format(upstream=cloud.port, keys="max_bytes = 5000000")).start()
    above = client(cloud)
    above.subscribe("plant/#")
    local = client(started)
    local.subscribe("fieldgate/#")
    taken = published(local, 500)
    above.wait_for_count("plant/x", len(taken), timeout=BACK)
    assert [int(m.payload[:6]) for m in above.on("plant/x")] == taken
    until("what was dropped", lambda: shown(local, "fieldgate/gw/uplink/dead").get("dropped", 0) > 400, timeout=BACK)
    assert shown(local)["dropped"] == 0


def test_p7_a_packet_over_the_bound_ends_its_own_connection_only(gateway, client):
    started = gateway(OPEN_BROKER.replace("[broker]\n", "[broker]\nmax_packet_bytes = 10000\n")).start()
    greedy, other = client(started), client(started)
    other.subscribe("x")
    greedy.publish("x", "y" * 20_000, wait=False)
    until("its end", lambda: greedy.disconnected is not None)
    assert "too large" in str(greedy.disconnected).lower()
    other.publish("x", "z" * 5000)
    assert len(other.wait_for("x").payload) == 5000


@pytest.mark.skipif(not may_mount(), reason="needs root and the right to mount")
def test_p7_a_full_disk_refuses_what_must_be_stored_and_stops_nothing_else(
    tmp_path, ends, client, mosquitto, modbus_server
):
    cloud = mosquitto()
    server = modbus_server("tcp", {1: Unit(holding={0: 5})})
    point = 'name = "p"\nholding = 0\ntype = "u16"\nwrite = { min = 0, max = 100 }'
    made = SmallDisk(
        tmp_path / "gateway",
        OPEN_BROKER + UPLINK.format(upstream=cloud.port, keys=""),
        server.bus() + device([point]),
    )
    ends.add(made.close)
    made.start()
    local, old, live = client(made), client(made, version=V311, clean=False), client(made)
    live.subscribe("#", qos=0)
    before = [n for n in range(20) if not local.publish("plant/before", str(n)).is_failure]
    assert len(before) == 20
    made.fill()
    refusals = []
    for number in range(400):
        reason = local.publish("plant/full", f"{number:06}".ljust(5000, "."), timeout=BACK)
        if reason.is_failure:
            refusals.append(reason.value)
            if len(refusals) >= 3:
                break
    assert refusals and set(refusals) == {0x97}, f"nothing was refused, or otherwise: {refusals}"
    mid = old.publish("plant/old", "x" * 5000, wait=False)
    live.wait_for("plant/old")
    local.publish("elsewhere/x", "live")
    live.wait_for("elsewhere/x")
    live.clear()
    live.wait_for_count("gw/dev/p", 5)
    local.publish("gw/dev/p/set", "9", qos=0)
    assert live.wait_for("gw/dev/p/set/result").json["status"] == "done"
    assert not old.acknowledged(mid), "3.1.1 was told that it is stored"
    live.wait_for("fieldgate/gw/store", lambda m: m.json["state"] == "not_writable", timeout=BACK)
    made.empty()
    live.wait_for("fieldgate/gw/store", lambda m: m.json["state"] == "writable", timeout=BACK)
    old._paho.socket().shutdown(socket.SHUT_RDWR)
    until("the cut", lambda: old.disconnected is not None)
    old.connect()
    until("the acknowledgement of what 3.1.1 sends again", lambda: old.acknowledged(mid), timeout=BACK)
    assert not local.publish("plant/after", "1", timeout=BACK).is_failure
    cloud.start()
    above = client(cloud)
    above.subscribe("#")
    above.wait_for("plant/after", timeout=BACK)
    assert above.on("plant/old")
    assert [m.text for m in above.on("plant/before")] == [str(n) for n in before]
