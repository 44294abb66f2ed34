"""A broker that is there already: `[broker]` left out, one uplink at Mosquitto with a user and an access list."""

from support.modbus import Unit
from support.mqtt import V5, V311, mosquitto_pub
from support.plant import device

USERS = {"fieldgate": "gateway's", "dashboard": "people's"}
ACL = """
user fieldgate
topic write plant/#
topic write fieldgate/#
topic read plant/+/+/+/set

user dashboard
topic read #
topic write plant/+/+/+/set
"""
COMEBACK = 40.0


def test_samples_go_out_to_it_and_commands_come_in_also_after_it_was_away(gateway, client, mosquitto, modbus_server):
    server = modbus_server("tcp", {1: Unit(holding={0: 7})})
    point = 'name = "p"\nholding = 0\ntype = "u16"\nwrite = { min = 0, max = 1000 }'
    mapping = server.bus() + device([point], keys='topic = "plant/{gateway}/{device}/{point}"')
    there = mosquitto("", directory="there")
    (there.directory / "acl").write_text(ACL)
    passwords = there.password_file(USERS)
    there.file.write_text(f"{there.file.read_text()}allow_anonymous false\npassword_file {passwords}\nacl_file {there.directory}/acl\n")
    there.start()
    config = f"""
[[uplink]]
name = "mosquitto"
url = "mqtt://127.0.0.1:{there.port}"
username = "fieldgate"
password_file = "mosquitto.password"
forward = ["plant/#", "fieldgate/#"]
accept = ["plant/{{gateway}}/+/+/set"]
"""
    started = gateway(config, mapping, files={"mosquitto.password": USERS["fieldgate"]})
    started.secrets = list(USERS.values())
    started.start()
    login = {"user": "dashboard", "password": USERS["dashboard"]}
    people = client(there, version=V5, **login)
    people.subscribe("plant/#", "fieldgate/#", qos=2)
    assert people.wait_for("plant/gw/dev/p", lambda m: m.json["value"] == 7, timeout=COMEBACK)
    assert people.wait_for("fieldgate/gw/status", lambda m: m.text == "online", timeout=COMEBACK)
    for number, version in enumerate((V311, V5), start=10):
        flag = "mqttv311" if version == V311 else "mqttv5"
        command = f'{{"value":{number},"id":"{flag}"}}'
        sent = mosquitto_pub(there.port, "plant/gw/dev/p/set", command, "-V", flag, "-q", "1", "-u", "dashboard", "-P", USERS["dashboard"])
        assert sent.returncode == 0, sent.stderr
        result = people.wait_for("plant/gw/dev/p/set/result", lambda m, flag=flag: m.json["id"] == flag)
        assert result.json["status"] == "done"
        people.wait_for("plant/gw/dev/p", lambda m, number=number: m.json["value"] == number)
    assert [write.values for write in server.writes()] == [(10,), (11,)]

    seen = max(m.json["seq"] for m in people.on("plant/gw/dev/p"))
    there.stop()
    there.start()
    people = client(there, version=V5, **login)
    people.subscribe("plant/#", qos=2)
    fresh = people.wait_for("plant/gw/dev/p", lambda m: not m.retain and m.json["seq"] > seen, timeout=COMEBACK)
    assert fresh.json["value"] is not None
    people.publish("plant/gw/dev/p/set", '{"value":12,"id":"again"}')
    again = people.wait_for("plant/gw/dev/p/set/result", lambda m: m.json["id"] == "again", timeout=COMEBACK)
    assert again.json["status"] == "done"
