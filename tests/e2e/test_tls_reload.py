"""Certificates of a listener that change while clients are connected (section 8)."""

import shutil
import ssl

import pytest

from conftest import STAND_IN
from support.certificates import authority, certificate
from support.wait import free_port, until
from test_broker import EVERYTHING, broker  # noqa: F401 (a fixture)

pytestmark = pytest.mark.skipif(STAND_IN, reason="says something that only fieldgate promises")


def served(port):
    return ssl.get_server_certificate(("127.0.0.1", port))


@pytest.fixture
def pki(tmp_path):
    folder = tmp_path / "pki"
    ca = authority(folder)
    pairs = {name: certificate(folder, name, "localhost") for name in ("server", "next", "third")}
    return ca, pairs


def put(pairs, name):
    for source, target in zip(pairs[name], pairs["server"], strict=True):
        shutil.copyfile(source, target)


def test_a_certificate_is_read_again_on_hang_up_and_when_its_file_changed(broker, client, pki):  # noqa: F811
    ca, pairs = pki
    first, following, third = (path.read_text() for path, _ in (pairs["server"], pairs["next"], pairs["third"]))
    cert, key = pairs["server"]
    made = broker(anonymous=EVERYTHING, listeners=[{"port": free_port(), "tls": {"cert": cert, "key": key}}])
    assert served(made.port) == first
    stays = client(made, tls={"ca_certs": str(ca)})
    put(pairs, "next")
    made.reload()
    until("the new certificate", lambda: served(made.port) == following)
    # A certificate and a key that do not belong together: what was there stays, and the log says why.
    shutil.copyfile(pairs["third"][0], cert)
    made.reload()
    made.process.wait_for_line("why it stays", lambda line: "certificate" in line and ("WARN" in line or "ERROR" in line))
    assert served(made.port) == following
    # Nobody says anything: it is noticed within ten seconds of connections.
    put(pairs, "third")
    until("the third certificate", lambda: served(made.port) == third, timeout=25)
    stays.subscribe("t/#")
    stays.publish("t/x", "still there")
    assert stays.wait_for("t/x").text == "still there"
