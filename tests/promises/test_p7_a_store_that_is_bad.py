"""P7: whatever the store's file or folder is found to be, the gateway runs, says so, and loses nothing it could read."""

import os
import sqlite3
from contextlib import closing

import pytest
from kit.disk import SmallDisk, may_mount
from support.gateway import OPEN_BROKER
from support.wait import until

BACK = 40
UPLINK = """
[[uplink]]
name = "cloud"
url = "mqtt://127.0.0.1:{upstream}"
forward = ["plant/#"]
drain_per_sec = 100000
"""


@pytest.fixture
def filled(gateway, client, mosquitto):
    """A gateway whose cloud is away,
    which runs, with 300 messages in its store."""
    cloud = mosquitto()
    started = gateway(OPEN_BROKER + UPLINK.format(upstream=cloud.port)).start()
    local = client(started)
    mids = [local.publish("plant/before", f"{n:06}".ljust(1000, "."), wait=False) for n in range(300)]
    until("every acknowledgement", lambda: all(map(local.acknowledged, mids)), timeout=BACK)
    return started, cloud


def drained(started, cloud, client):
    """Publishes once more, lets the cloud come back, and gives what it then gets."""
    local = client(started)
    assert not local.publish("plant/after", "1").is_failure
    cloud.start()
    above = client(cloud)
    above.subscribe("#")
    local.publish("plant/end", "1")
    above.wait_for("plant/end", timeout=BACK)
    return [int(m.payload[:6]) for m in above.on("plant/before")], local


def set_aside(started):
    return [p for p in (started.directory / "state").iterdir() if "corrupt" in p.name]


def noise(file, chance):
    file.write_bytes(chance.randbytes(file.stat().st_size))


def header(file, chance):
    with open(file, "r+b") as open_file:
        open_file.write(chance.randbytes(100))


def middle(file, chance):
    with open(file, "r+b") as open_file:
        open_file.seek(file.stat().st_size // 3)
        open_file.write(chance.randbytes(file.stat().st_size // 3))


def half(file, _):
    os.truncate(file, file.stat().st_size // 2)


def other_tables(file, _):
    file.unlink()
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE something (else_ TEXT)")
        other.execute("PRAGMA user_version = 1")
        other.commit()


@pytest.mark.parametrize("damage", [noise, header, middle, half, other_tables], ids=lambda one: one.__name__)
def test_p7_a_corrupt_store_is_set_aside_and_the_gateway_runs(filled, client, damage, chance):
    started, cloud = filled
    started.terminate()  # its log is in the file now
    damage(started.directory / "state" / "store.sqlite", chance)
    started.start()
    drained(started, cloud, client)
    assert "set aside" in started.process.output
    assert len(set_aside(started)) >= 1


def test_p7_a_folder_or_another_program_s_file_in_the_store_s_place_stops_nothing(filled, client):
    started, _ = filled
    started.kill()
    file = started.directory / "state" / "store.sqlite"
    for part in file.parent.glob("store.sqlite*"):
        part.unlink()
    (file / "inside").mkdir(parents=True)
    started.start()
    local = client(started)
    local.subscribe("#")
    local.publish("elsewhere/x", "live", qos=0)
    local.wait_for("elsewhere/x")
    refused = local.publish("plant/x", "1")
    local.wait_for("fieldgate/gw/store", lambda m: m.json["state"] == "not_writable", timeout=BACK)
    assert refused.value == 0x97, "acknowledged, with no store"
    assert (file / "inside").exists(), "somebody's folder was moved"
    assert "store.sqlite" in started.process.output


def test_p7_bits_that_flip_cost_what_they_hit_and_never_bring_another_message(filled, client, chance):
    started, cloud = filled
    started.terminate()
    file = started.directory / "state" / "store.sqlite"
    body = bytearray(file.read_bytes())
    for _ in range(20):
        body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    file.write_bytes(bytes(body))
    started.start()
    kept, _ = drained(started, cloud, client)
    assert kept == sorted(set(kept)) and set(kept) <= set(range(300))


@pytest.mark.parametrize("damage", ["garbage", "cut", "empty", "flipped"])
def test_p7_a_damaged_log_costs_what_was_behind_the_damage_only(filled, client, damage, chance):
    started, cloud = filled
    started.kill()
    log = started.directory / "state" / "store.sqlite-wal"
    body = bytearray(log.read_bytes())
    assert len(body) > 100_000, "the log is not where the messages are"
    if damage == "garbage":
        body = bytearray(chance.randbytes(len(body)))
    elif damage == "cut":
        del body[chance.randrange(len(body)) :]
    elif damage == "empty":
        body = bytearray()
    else:
        body[chance.randrange(40_000, len(body))] ^= 4
    log.write_bytes(bytes(body))
    started.start()
    kept, _ = drained(started, cloud, client)
    assert kept == list(range(len(kept))), "not a beginning of what was stored"
    if damage in ("garbage", "empty"):
        assert not kept


def test_p7_an_empty_file_is_a_new_store(filled, client):
    started, cloud = filled
    started.terminate()
    os.truncate(started.directory / "state" / "store.sqlite", 0)
    started.start()
    assert drained(started, cloud, client)[0] == []


def test_p7_a_store_of_a_newer_program_is_left_alone_and_named(filled):
    started, _ = filled
    started.terminate()
    file = started.directory / "state" / "store.sqlite"
    with closing(sqlite3.connect(file)) as store:
        store.execute("PRAGMA user_version = 900")
        store.commit()
    before = file.read_bytes()
    started.launch()
    assert started.process.wait() == 1
    assert "900" in started.process.output and "newer" in started.process.output
    assert file.read_bytes() == before


@pytest.mark.skipif(not may_mount(), reason="needs root and the right to mount")
def test_p7_a_disk_that_is_read_only_at_the_start_is_read_and_drained(filled, client, ends):
    started, cloud = filled
    started.kill()
    made = SmallDisk.of(started, 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"')
    ends.add(made.close)
    made.start()
    local = client(made)
    local.subscribe("#")
    assert local.publish("plant/x", "1").value == 0x97
    local.publish("elsewhere/x", "live")
    local.wait_for("elsewhere/x")
    local.wait_for("fieldgate/gw/store", lambda m: m.json["state"] == "not_writable", timeout=BACK)
    cloud.start()
    above = client(cloud)
    above.subscribe("plant/#")
    got = above.wait_for_count("plant/before", 300, timeout=BACK)
    assert [int(m.payload[:6]) for m in got] == list(range(300))
