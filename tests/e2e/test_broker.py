"""The broker, by clients nobody here wrote (sections 5 and 8, P1, P10).

With FIELDGATE_E2E_STAND_IN=mosquitto the same tests run against Mosquitto, so that a mistake of theirs shows.
"""

from dataclasses import dataclass, field

import pytest

from conftest import STAND_IN
from support.certificates import authority, certificate
from support.gateway import Gateway, password_hash
from support.mosquitto import Mosquitto
from support.mqtt import V5, V311, Refused, mosquitto_pub, mosquitto_sub
from support.wait import free_port, until

VERSIONS = pytest.mark.parametrize("version", [V311, V5], ids=["3.1.1", "5"])
LEVELS = pytest.mark.parametrize("qos", [0, 1, 2])


@dataclass
class Access:
    subscribe: list = field(default_factory=list)
    publish: list = field(default_factory=list)
    deny: list = field(default_factory=list)
    password: str | None = None


EVERYTHING = Access(subscribe=["#", "$SYS/#"], publish=["#"])


def as_fieldgate(directory, port, users, anonymous, listeners):
    text = "[broker]\n"
    for listener in listeners:
        text += f'[[broker.listener]]\nbind = "127.0.0.1:{listener["port"]}"\n'
        if listener.get("transport"):
            text += f'transport = "{listener["transport"]}"\n'
        if listener.get("tls"):
            files = ", ".join(f'{key} = "{path}"' for key, path in listener["tls"].items())
            text += f"tls = {{ {files} }}\n"
    for name, access in users.items():
        text += f'[[broker.user]]\nname = "{name}"\n'
        if access.password:
            text += f'password_hash = "{password_hash(access.password)}"\n'
        text += "".join(f"{key} = {getattr(access, key)}\n" for key in ("subscribe", "publish", "deny"))
    if anonymous:
        text += f"[broker.anonymous]\nsubscribe = {anonymous.subscribe}\npublish = {anonymous.publish}\n"
    made = Gateway(directory, text.replace("'", '"'))
    made.port = port
    made.secrets = [access.password for access in users.values() if access.password]
    return made


def as_mosquitto(directory, port, users, anonymous, listeners):
    made = Mosquitto(directory, "", port=port, listener=False)
    text = f"allow_anonymous {'true' if anonymous else 'false'}\n"
    for listener in listeners:
        web = listener.get("transport")
        text += f"listener {listener['port']}{'' if web else ' 127.0.0.1'}\n"
        if web:
            text += "protocol websockets\n"
        if listener.get("tls"):
            tls = listener["tls"]
            text += f"certfile {tls['cert']}\nkeyfile {tls['key']}\n"
            if "client_ca" in tls:
                text += f"cafile {tls['client_ca']}\nrequire_certificate true\nuse_identity_as_username true\n"
    rules = ""
    for name, access in [(None, anonymous), *users.items()]:
        if access:
            rules += f"user {name}\n" if name else ""
            for kind, filters in (("read", access.subscribe), ("write", access.publish), ("deny", access.deny)):
                rules += "".join(f"topic {kind} {one}\n" for one in filters)
    (made.directory / "acl").write_text(rules)
    text += f"acl_file {made.directory / 'acl'}\n"
    passwords = {name: access.password for name, access in users.items() if access.password}
    text += f"password_file {made.password_file(passwords)}\n"
    made.file.write_text(made.file.read_text() + text)
    return made


@pytest.fixture
def broker(tmp_path, ends):
    def make(users=None, anonymous=None, listeners=None):
        listeners = listeners or [{"port": free_port()}]
        build = as_mosquitto if STAND_IN else as_fieldgate
        made = build(tmp_path / "broker", listeners[0]["port"], users or {}, anonymous, listeners)
        ends.add(made.close)
        return made.start()

    return make


@pytest.fixture
def open_broker(broker):
    return broker(anonymous=EVERYTHING)


@VERSIONS
@LEVELS
def test_a_message_arrives_once_at_the_lower_of_both_levels(open_broker, client, version, qos):
    sender, receiver = client(open_broker, version=version), client(open_broker, version=version)
    for level in (0, 1, 2):
        receiver.subscribe(f"to/{level}/#", qos=level)
    for number in range(20):
        for level in (0, 1, 2):
            sender.publish(f"to/{level}/x", str(number), qos=qos)
    for level in (0, 1, 2):
        receiver.wait_for_count(f"to/{level}/x", 20)
    receiver.settle()
    for level in (0, 1, 2):
        got = receiver.on(f"to/{level}/x")
        assert [m.text for m in got] == [str(number) for number in range(20)]
        assert {m.qos for m in got} == {min(qos, level)}


def test_clients_of_both_versions_understand_each_other(open_broker, client):
    old, new = client(open_broker, version=V311), client(open_broker, version=V5)
    old.subscribe("x/#")
    new.subscribe("x/#")
    old.publish("x/old", "1")
    new.publish("x/new", "2")
    for one in (old, new):
        assert one.wait_for("x/old").text == "1"
        assert one.wait_for("x/new").text == "2"


def test_the_mosquitto_clients_publish_and_subscribe(open_broker, client):
    for flag in ("mqttv311", "mqttv5"):
        assert mosquitto_pub(open_broker.port, f"m/{flag}", "hello", "-q", "2", "-r", "-V", flag).returncode == 0
        got = mosquitto_sub(open_broker.port, f"m/{flag}", "-q", "2", "-V", flag)
        assert got.stdout.strip() == "hello", got.stderr


def test_wildcards_topics_of_other_alphabets_and_large_payloads_pass(open_broker, client):
    one = client(open_broker)
    one.subscribe("ä/+/#", qos=2)
    for topic, payload in (("ä/b/c", b""), ("ä/ж/日本/😀", b"\0\xff" * 100), ("ä/x", b"x" * 200_000)):
        one.publish(topic, payload, qos=2)
        assert one.wait_for(topic).payload == payload
    one.publish("ä", "not matched")
    one.settle()
    assert one.on("ä") == []


def test_overlapping_subscriptions_bring_the_highest_level_and_at_least_one_copy(open_broker, client):
    one = client(open_broker)
    one.subscribe("o/#", qos=0)
    one.subscribe("o/x", qos=2)
    one.publish("o/x", "1", qos=2)
    assert one.wait_for("o/x", lambda m: m.qos == 2)


def test_a_retained_message_comes_to_a_late_subscriber_and_an_empty_one_removes_it(open_broker, client):
    one = client(open_broker)
    one.publish("r/a", "first", retain=True)
    one.publish("r/a", "second", retain=True)
    late = client(open_broker)
    late.subscribe("r/+")
    kept = late.wait_for("r/a")
    assert (kept.text, kept.retain) == ("second", True)
    one.publish("r/a", "live", retain=False)
    assert late.wait_for("r/a", lambda m: m.text == "live").retain is False
    one.publish("r/a", b"", retain=True)
    later = client(open_broker)
    later.subscribe("r/+")
    later.settle()
    assert later.on("r/a") == []


@VERSIONS
def test_a_retained_message_outlives_a_kill(open_broker, client, version):
    one = client(open_broker, version=version)
    one.publish("r/kept", "still here", qos=1, retain=True)
    one.publish("r/kept2", "still here", qos=2, retain=True)
    open_broker.kill()
    open_broker.start()
    late = client(open_broker, version=version)
    late.subscribe("r/#")
    assert late.wait_for("r/kept").text == "still here"
    assert late.wait_for("r/kept2").text == "still here"


@VERSIONS
def test_a_will_is_published_when_the_connection_is_cut_and_not_when_it_is_closed(open_broker, client, version):
    watcher = client(open_broker, version=version)
    watcher.subscribe("will/#", qos=2)
    polite = client(open_broker, version=version, will={"topic": "will/polite", "payload": "gone", "qos": 1})
    rude = client(
        open_broker, version=version, will={"topic": "will/rude", "payload": "gone", "qos": 1, "retain": True}
    )
    polite.disconnect()
    rude.drop()
    assert watcher.wait_for("will/rude").text == "gone"
    watcher.settle()
    assert watcher.on("will/polite") == []
    late = client(open_broker, version=version)
    late.subscribe("will/#")
    assert late.wait_for("will/rude").retain


@VERSIONS
def test_a_durable_session_gets_what_came_while_it_was_away(open_broker, client, version):
    away = client(open_broker, client_id="away", version=version, clean=False)
    assert away.session_present is False
    away.subscribe("q/#", qos=2)
    away.disconnect()
    sender = client(open_broker, version=version)
    for number in range(20):
        sender.publish("q/1", str(number), qos=1)
        sender.publish("q/2", str(number), qos=2)
    back = client(open_broker, client_id="away", version=version, clean=False)
    assert back.session_present is True
    wanted = [str(number) for number in range(20)]
    back.wait_for_count("q/1", 20)
    back.wait_for_count("q/2", 20)
    back.settle()
    assert [m.text for m in back.on("q/1")] == wanted
    assert [m.text for m in back.on("q/2")] == wanted


@VERSIONS
def test_a_durable_session_and_its_queue_outlive_a_kill(open_broker, client, version):
    away = client(open_broker, client_id="away", version=version, clean=False)
    away.subscribe("q/#", qos=2)
    away.disconnect()
    sender = client(open_broker, version=version)
    for number in range(50):
        sender.publish(f"q/{1 + number % 2}", str(number), qos=1 + number % 2)
    open_broker.kill()
    open_broker.start()
    back = client(open_broker, client_id="away", version=version, clean=False)
    assert back.session_present is True
    back.wait_for_count("q/1", 25)
    back.wait_for_count("q/2", 25)
    back.settle()
    assert [m.text for m in back.on("q/1")] == [str(number) for number in range(0, 50, 2)]
    assert [m.text for m in back.on("q/2")] == [str(number) for number in range(1, 50, 2)]
    sender = client(open_broker, version=version)
    sender.publish("q/1", "after")
    assert back.wait_for("q/1", lambda m: m.text == "after"), "its subscription is gone"


@pytest.mark.fieldgate_only  # Mosquitto 2.0.11 loses them
@VERSIONS
def test_what_was_not_acknowledged_comes_again_after_a_kill(open_broker, client, version):
    slow = client(open_broker, client_id="slow", version=version, clean=False, manual_ack=True)
    slow.subscribe("q/#", qos=1)
    sender = client(open_broker, version=version)
    for number in range(10):
        sender.publish("q/x", str(number))
    slow.wait_for_count("q/x", 10)
    open_broker.kill()
    open_broker.start()
    back = client(open_broker, client_id="slow", version=version, clean=False)
    back.wait_for_count("q/x", 10)
    assert sorted({int(m.text) for m in back.on("q/x")}) == list(range(10))


def test_a_clean_start_forgets_the_session(open_broker, client):
    first = client(open_broker, client_id="c", clean=False)
    first.subscribe("q/#")
    first.disconnect()
    fresh = client(open_broker, client_id="c", clean=True)
    assert fresh.session_present is False
    client(open_broker).publish("q/x", "1")
    fresh.settle()
    assert fresh.on("q/x") == []


def test_the_same_client_id_takes_the_connection_over(open_broker, client):
    first = client(open_broker, client_id="same")
    second = client(open_broker, client_id="same")
    until("the end of the first connection", lambda: first.disconnected is not None)
    second.settle()


def test_nobody_without_a_name_gets_in_unless_the_file_says_so(broker, client):
    made = broker(users={"dash": Access(["#"], ["#"], password="rosebud-17")})
    for version in (V311, V5):
        with pytest.raises(Refused):
            client(made, version=version)
    assert mosquitto_pub(made.port, "x", "1").returncode != 0


@VERSIONS
def test_a_wrong_password_and_an_unknown_user_are_refused(broker, client, version):
    made = broker(users={"dash": Access(["#"], ["#"], password="rosebud-17")})
    client(made, version=version, user="dash", password="rosebud-17").settle()
    for user, password in (("dash", "rosebud-18"), ("dash", ""), ("nobody", "rosebud-17"), ("dash", None)):
        with pytest.raises(Refused):
            client(made, version=version, user=user, password=password)


@pytest.mark.fieldgate_only  # Mosquitto 2.0.11 closes the connection after a refusal
def test_a_client_reads_and_writes_what_its_rules_allow_and_nothing_else(broker, client):
    made = broker(
        users={
            "dash": Access(["plant/#"], ["plant/+/+/set"], password="rosebud-17"),
            "boss": Access(["#"], ["#"], password="rosebud-18"),
        }
    )
    boss = client(made, user="boss", password="rosebud-18")
    boss.subscribe("#")
    dash = client(made, user="dash", password="rosebud-17")
    dash.subscribe("plant/#")
    boss.publish("plant/a/b", "1")
    assert dash.wait_for("plant/a/b").text == "1"
    dash.publish("plant/a/b/set", "2")
    assert boss.wait_for("plant/a/b/set").text == "2"
    assert dash.publish("plant/a/b", "3").is_failure
    assert dash.publish("other", "4").is_failure
    dash.publish("plant/a/c/set", "5")
    boss.wait_for("plant/a/c/set")
    assert [m.text for m in boss.on("plant/a/b")] == ["1"]
    assert boss.on("other") == []


@pytest.mark.fieldgate_only
def test_a_subscription_that_no_rule_allows_is_refused_in_the_suback(broker, client):
    made = broker(users={"dash": Access(["plant/#"], [], password="rosebud-17")})
    for version in (V311, V5):
        dash = client(made, version=version, user="dash", password="rosebud-17")
        reasons = dash.subscribe("plant/a", "secret/x", "#", expect_granted=False)
        assert [reason.is_failure for reason in reasons] == [False, True, True]


def test_denied_topics_are_withheld_from_a_wider_subscription(broker, client):
    made = broker(
        users={
            "dash": Access(["plant/#"], ["plant/#"], ["plant/secret/#"], password="rosebud-17"),
            "boss": Access(["#"], ["#"], password="rosebud-18"),
        }
    )
    boss = client(made, user="boss", password="rosebud-18")
    boss.subscribe("#")
    boss.publish("plant/secret/kept", "0", retain=True)
    dash = client(made, user="dash", password="rosebud-17")
    dash.subscribe("plant/#")
    boss.publish("plant/secret/x", "1")
    boss.publish("plant/open", "2")
    assert dash.wait_for("plant/open").text == "2"
    assert [m.topic for m in dash.all()] == ["plant/open"]
    assert dash.publish("plant/secret/y", "3").is_failure
    boss.publish("plant/end", "4")
    boss.wait_for("plant/end")
    assert boss.on("plant/secret/y") == []


@pytest.mark.fieldgate_only
def test_the_user_s_and_the_client_s_name_stand_in_for_their_placeholders(broker, client):
    rules = Access(["own/{user}/#", "own/{client}/#"], ["own/{user}/#"], password="rosebud-17")
    made = broker(users={"anna": rules})
    anna = client(made, client_id="tablet", user="anna", password="rosebud-17")
    reasons = anna.subscribe("own/anna/#", "own/tablet/#", "own/berta/#", expect_granted=False)
    assert [reason.is_failure for reason in reasons] == [False, False, True]
    anna.publish("own/anna/x", "1")
    assert anna.wait_for("own/anna/x")
    assert anna.publish("own/berta/x", "1").is_failure


@pytest.mark.fieldgate_only
def test_a_client_name_with_wildcards_gains_nothing(broker, client):
    rules = Access(["own/{client}/#"], [], password="rosebud-17")
    made = broker(users={"anna": rules, "boss": Access(["#"], ["#"], password="rosebud-18")})
    for name in ("+", "#", "a/+"):
        try:
            sly = client(made, client_id=name, user="anna", password="rosebud-17")
        except Refused:
            continue
        filters = ["own/#", "own/+/x"] + ([] if name == "#" else [f"own/{name}/x"])
        if sly.subscribe(*filters, expect_granted=False):
            client(made, user="boss", password="rosebud-18").publish("own/other/x", "secret")
            client(made, user="boss", password="rosebud-18").publish("own/a/b/x", "secret")
            assert sly.all() == []


@pytest.mark.fieldgate_only
def test_clients_cannot_publish_under_the_gateway_s_own_topics(open_broker, client):
    one = client(open_broker)
    one.subscribe("fieldgate/#")
    assert one.publish("fieldgate/gw/status", "offline", retain=True).is_failure
    one.publish("fieldgate/gw/anything/at/all", "1", qos=2)
    one.settle()
    assert {m.text for m in one.on("fieldgate/gw/status")} == {"online"}
    assert one.on("fieldgate/gw/anything/at/all") == []
    assert not one.publish("fieldgate/other/x", "1").is_failure
    liar = {"topic": "fieldgate/gw/status", "payload": "lie", "retain": True}
    try:
        client(open_broker, will=liar).drop()
    except Refused:
        pass
    late = client(open_broker)
    late.subscribe("fieldgate/gw/status")
    assert late.wait_for("fieldgate/gw/status").text == "online"


def test_the_sys_topics_tell_about_the_broker(open_broker, client):
    one = client(open_broker)
    one.subscribe("$SYS/broker/#")
    one.wait_for("$SYS/broker/uptime", timeout=30)
    one.wait_for("$SYS/broker/version", timeout=30)
    one.wait_for("$SYS/broker/clients/connected", timeout=30)
    plain = client(open_broker)
    plain.subscribe("#")
    plain.settle()
    assert not any(m.topic.startswith("$SYS") for m in plain.all())


@pytest.mark.fieldgate_only  # Mosquitto 2.0.11 opens no WebSocket listener where there is no IPv6
@VERSIONS
def test_websocket_clients_talk_to_the_others(broker, client, version):
    listeners = [{"port": free_port()}, {"port": free_port(), "transport": "websocket"}]
    made = broker(anonymous=EVERYTHING, listeners=listeners)
    web = client(listeners[1]["port"], version=version, transport="websockets")
    plain = client(made, version=version)
    web.subscribe("w/#", qos=2)
    plain.subscribe("w/#", qos=2)
    web.publish("w/big", "x" * 100_000, qos=2)
    plain.publish("w/small", "y", qos=2)
    for one in (web, plain):
        assert len(one.wait_for("w/big").text) == 100_000
        assert one.wait_for("w/small").text == "y"


@VERSIONS
def test_a_tls_listener_serves_clients_that_trust_its_certificate(broker, client, tmp_path, version):
    ca = authority(tmp_path / "pki")
    cert, key = certificate(tmp_path / "pki", "server", "localhost")
    made = broker(anonymous=EVERYTHING, listeners=[{"port": free_port(), "tls": {"cert": cert, "key": key}}])
    one = client(made, version=version, tls={"ca_certs": str(ca)})
    one.subscribe("t/#", qos=2)
    one.publish("t/x", "z" * 50_000, qos=2)
    assert len(one.wait_for("t/x").text) == 50_000
    got = mosquitto_pub(made.port, "t/m", "1", "--cafile", ca, "-q", "1")
    assert got.returncode == 0, got.stderr
    with pytest.raises((Refused, AssertionError, OSError)):
        client(made, version=version)


def test_a_client_certificate_s_common_name_is_the_user(broker, client, tmp_path):
    pki = tmp_path / "pki"
    ca = authority(pki)
    other = authority(tmp_path / "pki", "other")
    cert, key = certificate(pki, "server", "localhost")
    good = certificate(pki, "good", "sensor-7", extension="extendedKeyUsage=clientAuth")
    unknown = certificate(pki, "unknown", "sensor-8", extension="extendedKeyUsage=clientAuth")
    foreign = certificate(pki, "foreign", "sensor-7", ca="other", extension="extendedKeyUsage=clientAuth")
    made = broker(
        users={"sensor-7": Access(["own/#"], ["own/#"])},
        listeners=[{"port": free_port(), "tls": {"cert": cert, "key": key, "client_ca": ca}}],
    )
    assert other.exists()

    def tls(pair):
        return {"ca_certs": str(ca), "certfile": str(pair[0]), "keyfile": str(pair[1])}

    sensor = client(made, tls=tls(good))
    sensor.subscribe("own/#")
    sensor.publish("own/x", "1")
    assert sensor.wait_for("own/x")
    assert sensor.publish("other/x", "1").is_failure
    with pytest.raises((Refused, AssertionError, OSError)):
        client(made, tls=tls(foreign))
    with pytest.raises((Refused, AssertionError, OSError)):
        client(made, tls={"ca_certs": str(ca)})
    if not STAND_IN:
        with pytest.raises(Refused):
            client(made, tls=tls(unknown))


@pytest.mark.fieldgate_only
def test_a_packet_over_the_limit_ends_its_own_connection_only(broker, client, tmp_path, ends):
    made = Gateway(
        tmp_path / "small",
        '[broker]\nmax_packet_bytes = 1000\n[[broker.listener]]\nbind = "127.0.0.1:{port}"\n'
        '[broker.anonymous]\nsubscribe = ["#"]\npublish = ["#"]\n',
    )
    ends.add(made.close)
    made.start()
    healthy, big = client(made), client(made, version=V311)
    big.publish("x", "y" * 5000, wait=False)
    until("the end of that connection", lambda: big.disconnected is not None)
    healthy.settle()


@pytest.mark.fieldgate_only
def test_a_connection_over_the_limit_is_refused_and_the_others_go_on(client, tmp_path, ends):
    made = Gateway(
        tmp_path / "few",
        '[broker]\nmax_connections = 2\n[[broker.listener]]\nbind = "127.0.0.1:{port}"\n'
        '[broker.anonymous]\nsubscribe = ["#"]\npublish = ["#"]\n',
    )
    ends.add(made.close)
    made.start()
    first, second = client(made), client(made)
    with pytest.raises((Refused, AssertionError, OSError)):
        client(made)
    first.settle()
    second.disconnect()
    until("a free place", lambda: _connects(client, made))


def _connects(client, made):
    try:
        client(made)
        return True
    except (AssertionError, OSError):
        return False


@pytest.mark.fieldgate_only
def test_garbage_and_wrong_topics_end_one_connection_and_never_the_broker(open_broker, client):
    import os
    import socket

    healthy = client(open_broker)
    healthy.subscribe("#")
    for garbage in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x10\xff\xff\xff\xff", os.urandom(500), b"\x30\x03\x00\x01#x"):
        with socket.create_connection(("127.0.0.1", open_broker.port)) as raw:
            raw.sendall(garbage)
            raw.shutdown(socket.SHUT_WR)
            raw.settimeout(15)
            try:
                while raw.recv(1000):
                    pass
            except ConnectionError:
                pass
    healthy.settle()


@pytest.mark.fieldgate_only
def test_a_silent_connection_does_not_hold_up_a_tls_port(broker, client, tmp_path):
    import socket

    ca = authority(tmp_path / "pki")
    cert, key = certificate(tmp_path / "pki", "server", "localhost")
    made = broker(anonymous=EVERYTHING, listeners=[{"port": free_port(), "tls": {"cert": cert, "key": key}}])
    silent = [socket.create_connection(("127.0.0.1", made.port)) for _ in range(5)]
    client(made, tls={"ca_certs": str(ca)}).settle()
    for one in silent:
        one.close()


def test_a_keep_alive_that_passes_in_silence_publishes_the_will(open_broker, client):
    watcher = client(open_broker)
    watcher.subscribe("will/#")
    frozen = client(open_broker, keep_alive=1, will={"topic": "will/frozen", "payload": "gone", "qos": 1})
    frozen._paho.loop_stop()  # the connection stays open, and nothing pings any more
    watcher.wait_for("will/frozen", timeout=20)


def test_shared_loops_of_many_clients_lose_nothing_at_qos_1(open_broker, client):
    receivers = [client(open_broker) for _ in range(5)]
    for one in receivers:
        one.subscribe("many/#")
    senders = [client(open_broker) for _ in range(5)]
    for number in range(100):
        for place, one in enumerate(senders):
            one.publish(f"many/{place}", str(number), wait=False)
    for one in receivers:
        for place in range(5):
            got = one.wait_for_count(f"many/{place}", 100, timeout=30)
            assert [m.text for m in got] == [str(number) for number in range(100)]
