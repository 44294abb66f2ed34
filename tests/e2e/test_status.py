"""The status listener against clients that mean no good, and its metrics through Prometheus' own parser (section 5)."""

import json
import socket
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.gateway import OPEN_BROKER, http, http_json
from support.modbus import Unit
from support.plant import device
from support.wait import free_port, until


@pytest.fixture
def page(gateway, modbus_server):
    """A gateway with a bus that answers and one that is not there; the port of its status page."""
    port = free_port()
    server = modbus_server("tcp", {1: Unit(holding={0: 7, 1: 8})})
    points = ['name = "p"\nholding = 0', 'name = "odd \\"\\\\ é"\nholding = 1']
    dead = '[[modbus]]\nname = "dead"\ntcp = "127.0.0.1:1"\n' + device(['name = "q"\nholding = 0'], name="gone")
    gateway(OPEN_BROKER + f'[status]\nbind = "127.0.0.1:{port}"\n', server.bus() + device(points) + dead).start()
    until("a value", lambda: any(point["value"] == 8 for point in http_json(port, "/api/state")["points"]))
    return port


def raw(port, request):
    """What comes back for these bytes, until the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            connection.sendall(request)
        except OSError:
            pass  # it may have answered and closed already
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except ConnectionResetError:
            pass
        return answer


def test_prometheus_reads_the_metrics_and_labels_come_through_whole(page):
    families = {family.name: family for family in text_string_to_metric_families(http(page, "/metrics")[1])}
    values = {sample.labels["point"]: sample.value for sample in families["fieldgate_point_value"].samples}
    assert values == {"p": 7, 'odd "\\ é': 8}
    up = {sample.labels["bus"]: sample.value for sample in families["fieldgate_bus_up"].samples}
    assert up == {"bus": 1, "dead": 0}
    assert families["fieldgate_bus_requests"].type == "counter"
    assert all(family.type and family.documentation for family in families.values())


def test_a_bus_that_is_not_there_is_shown_and_is_no_reason_to_call_the_gateway_ill(page):
    assert http(page, "/healthz") == (200, "ok\n")
    state = http_json(page, "/api/state")
    dead = next(bus for bus in state["buses"] if bus["name"] == "dead")
    assert dead["state"] == "down" and "refused" in dead["last_error"]
    assert next(point for point in state["points"] if point["device"] == "gone")["fault"] == "disconnected"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 5000 + b"\r\n", 431),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"\x16\x03\x01\x02\x00" + bytes(range(256)), 400),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\nabc", 405),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
    ],
    ids=["long header", "many headers", "long address", "TLS", "endless body", "out of the folder"],
)
def test_a_hostile_request_is_refused_and_the_next_is_served(page, request_bytes, status):
    assert raw(page, request_bytes).split(b"\r\n")[0].startswith(b"HTTP/1.1 %d " % status)
    assert http(page, "/healthz")[0] == 200


def test_silent_and_slow_clients_keep_nobody_out(page):
    silent = [socket.create_connection(("127.0.0.1", page), timeout=5) for _ in range(100)]
    greedy = []
    for _ in range(40):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(("127.0.0.1", page))
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
        greedy.append(connection)
    begun = time.monotonic()
    assert http(page, "/healthz")[0] == 200
    assert json.loads(http(page, "/api/state")[1])["ready"]
    assert time.monotonic() - begun < 4, "it had to wait for a place"
    for connection in silent + greedy:
        connection.close()
