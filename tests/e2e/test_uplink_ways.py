"""The uplink's ways to the cloud: WebSocket, TLS with a client certificate, credentials by systemd; and what a reload changes."""

import time

import pytest
from support.certificates import authority, certificate
from support.gateway import OPEN_BROKER
from support.mqtt import V5
from support.wait import free_port, until

BACK = 40
UPLINK = """
[[uplink]]
name = "cloud"
url = "{url}"
forward = ["plant/#"]
{keys}
"""


@pytest.fixture
def secure(mosquitto, tmp_path):
    """Mosquitto with every listener; the secure ones ask for a certificate."""
    pki = tmp_path / "pki"
    ca = authority(pki)
    cert, key = certificate(pki, "server", "localhost")
    certificate(pki, "pi", "pi-1", extension="extendedKeyUsage=clientAuth")
    cloud = mosquitto()
    cloud.ports = {scheme: free_port() for scheme in ("mqtts", "ws", "wss")}
    tls = f"certfile {cert}\nkeyfile {key}\ncafile {ca}\nrequire_certificate true\n"
    cloud.file.write_text(
        cloud.file.read_text()
        + f"listener {cloud.ports['mqtts']} 127.0.0.1\n{tls}"
        + f"listener {cloud.ports['ws']} 127.0.0.1\nprotocol websockets\n"
        + f"listener {cloud.ports['wss']} 127.0.0.1\nprotocol websockets\n{tls}"
    )
    cloud.pki = pki
    return cloud.start()


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("scheme", ["mqtts", "ws", "wss"])
def test_messages_go_up_and_come_down_by_every_way(gateway, client, secure, scheme, version):
    above = client(secure)
    above.subscribe("plant/#")
    keys = f'version = {version}\naccept = ["down/#"]'
    if scheme != "ws":
        # Relative to the gateway's file.
        files = {name: (secure.pki / name).read_text() for name in ("ca.pem", "pi.pem", "pi.key")}
        keys += '\nca = "ca.pem"\nclient_cert = "pi.pem"\nclient_key = "pi.key"'
    else:
        files = {}
    url = f"{scheme}://localhost:{secure.ports[scheme]}"
    started = gateway(OPEN_BROKER + UPLINK.format(url=url, keys=keys), files=files).start()
    local = client(started)
    local.subscribe("down/#")
    for number in range(300):
        local.publish("plant/x", str(number).ljust(2000, "."), wait=number % 20 == 0)
    got = above.wait_for_count("plant/x", 300, timeout=BACK)
    assert [int(m.text.rstrip(".")) for m in got] == list(range(300))
    above.publish("down/x", "y" * 100_000)
    assert len(local.wait_for("down/x").payload) == 100_000


def test_a_password_comes_from_systemd_s_credentials_before_a_file(gateway, client, mosquitto, tmp_path):
    cloud = mosquitto("allow_anonymous false\n")
    passwords = cloud.password_file({"pi-1": "rosebud-21", "watch": "w"})
    cloud.file.write_text(cloud.file.read_text() + f"password_file {passwords}\n")
    cloud.start()
    above = client(cloud, user="watch", password="w")
    above.subscribe("#")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "cloud").write_text("rosebud-21")
    keys = 'username = "pi-1"\npassword_file = "cloud"'
    made = gateway(OPEN_BROKER + UPLINK.format(url=f"mqtt://127.0.0.1:{cloud.port}", keys=keys), files={"cloud": "wrong"})
    made.secrets = ["rosebud-21"]
    made.start(env={"CREDENTIALS_DIRECTORY": str(credentials)})
    client(made).publish("plant/x", "1")
    assert above.wait_for("plant/x", timeout=BACK).text == "1"


def test_a_reload_that_moves_the_uplink_takes_its_queue_along(gateway, client, mosquitto):
    cloud = mosquitto().start()
    above = client(cloud)
    above.subscribe("#")
    started = gateway(OPEN_BROKER + UPLINK.format(url=f"mqtt://127.0.0.1:{free_port()}", keys="")).start()
    local = client(started)
    for number in range(100):
        local.publish("plant/x", str(number), wait=number % 20 == 0)
    local.publish("plant/x", "100")
    started.write_config(OPEN_BROKER + UPLINK.format(url=f"mqtt://127.0.0.1:{cloud.port}", keys='prefix = "site/"'))
    started.reload()
    got = above.wait_for_count("site/plant/x", 101, timeout=BACK)
    assert [int(m.text) for m in got] == list(range(101))
    assert local.connected, "a local client was cut off"


def test_what_is_older_than_max_age_is_dropped_counted_and_never_sent(gateway, client, mosquitto):
    cloud = mosquitto()
    started = gateway(OPEN_BROKER + UPLINK.format(url=f"mqtt://127.0.0.1:{cloud.port}", keys="max_age_secs = 3")).start()
    local = client(started, version=V5)
    local.subscribe("fieldgate/#")
    for number in range(20):
        local.publish("plant/old", str(number))
    time.sleep(6)
    local.publish("plant/new", "1")
    cloud.start()
    above = client(cloud)
    above.subscribe("#")
    local.publish("plant/end", "1")
    above.wait_for("plant/end", timeout=BACK)
    assert above.on("plant/old") == []
    told = lambda: [m.json["dropped"] for m in local.on("fieldgate/gw/uplink/cloud")]  # noqa: E731
    until("the count", lambda: told() and told()[-1] == 20, timeout=BACK)
