"""SIGHUP: what a user changes most often is swapped, and what cannot be swapped changes nothing."""

import socket

import pytest
from support.gateway import http
from support.mqtt import Client
from support.plant import device
from support.wait import free_port, until

BROKER = """
[broker]
[[broker.listener]]
bind = "{bind}"
[broker.anonymous]
subscribe = ["#"]
publish = ["#"]
"""


def reload(gateway, config=None, mapping=None):
    """Reloads and returns the line that says what came of it."""
    if config is not None:
        gateway.write_config(config)
    if mapping is not None:
        gateway.write_mapping(mapping)
    before = len(gateway.process.lines)
    gateway.reload()

    def answer():
        told = (line for line in gateway.process.lines[before:] if "reloaded" in line)
        return next(told, None)

    return until("the reload's end", answer)


def own_address():
    """An address of this machine that is not 127.0.0.1 and that nothing is sent to: all of 127/8 is loopback."""
    return "127.0.0.2"


def test_a_listener_on_loopback_is_opened_to_all_interfaces_by_a_reload(gateway, client):
    port = free_port()
    started = gateway(BROKER.replace("{bind}", f"127.0.0.1:{port}")).start()
    stays = client(port)
    stays.subscribe("a")
    with pytest.raises(OSError):
        socket.create_connection((own_address(), port), timeout=2)
    assert reload(started, BROKER.replace("{bind}", f"0.0.0.0:{port}")).endswith("INFO reloaded")
    socket.create_connection((own_address(), port), timeout=2).close()
    stays.publish("a", "still there")
    stays.wait_for("a", lambda message: message.text == "still there")


def test_the_status_page_is_opened_to_all_interfaces_by_a_reload(gateway):
    page = free_port()
    config = BROKER.replace("{bind}", "127.0.0.1:{port}") + '[status]\nbind = "{page}"\n'
    started = gateway(config.replace("{page}", f"127.0.0.1:{page}")).start()
    assert http(page, "/healthz")[0] == 200
    assert reload(started, config.replace("{page}", f"0.0.0.0:{page}")).endswith("INFO reloaded")
    socket.create_connection((own_address(), page), timeout=2).close()
    assert http(page, "/healthz")[0] == 200


def test_an_address_that_cannot_be_bound_leaves_every_listener_as_it_was(gateway, client):
    port, page = free_port(), free_port()
    config = BROKER.replace("{bind}", f"127.0.0.1:{port}") + f'[status]\nbind = "127.0.0.1:{page}"\n'
    started = gateway(config).start()
    stays = client(port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        in_use = taken.getsockname()[1]
        wider = BROKER.replace("{bind}", f"0.0.0.0:{port}") + f'[[broker.listener]]\nbind = "127.0.0.1:{in_use}"\n'
        said = reload(started, wider + f'[status]\nbind = "0.0.0.0:{page}"\n')
        assert "not reloaded, the running configuration stays in force" in said
        assert f"cannot listen on 127.0.0.1:{in_use}: Address already in use" in said
        assert said.count("Address already in use") == 1
        with pytest.raises(OSError):
            socket.create_connection((own_address(), port), timeout=2)
        assert client(port).connected and stays.connected
        assert http(page, "/healthz")[0] == 200
        said = reload(started, config.replace(f"127.0.0.1:{page}", f"127.0.0.1:{in_use}"))
        assert f"cannot bind 127.0.0.1:{in_use} for [status]" in said
        assert http(page, "/healthz")[0] == 200
    assert reload(started, config).endswith("INFO reloaded")


def test_a_point_that_is_no_more_leaves_no_retained_value_behind(gateway, client, modbus_server, mosquitto):
    from support.modbus import Unit

    cloud = mosquitto().start()
    above = client(cloud)
    above.subscribe("gw/#")
    server = modbus_server(units={1: Unit(holding={0: 1, 1: 2})})
    both = ['name = "stays"\nholding = 0', 'name = "goes"\nholding = 1']
    config = BROKER.replace("{bind}", "127.0.0.1:{port}")
    uplink = f'[[uplink]]\nname = "cloud"\nurl = "mqtt://127.0.0.1:{cloud.port}"\nforward = ["gw/#"]\n'
    started = gateway(config + uplink, server.bus() + device(both)).start()
    listener = client(started)
    listener.subscribe("gw/#")
    listener.wait_for("gw/dev/goes")
    above.wait_for("gw/dev/goes")
    assert reload(started, mapping=server.bus() + device(both[:1])).endswith("INFO reloaded")
    listener.wait_for("gw/dev/goes", lambda message: message.payload == b"")
    above.wait_for("gw/dev/goes", lambda message: message.payload == b"")
    for broker in (started, cloud):
        late = client(broker)
        late.subscribe("gw/#")
        late.wait_for("gw/dev/stays", lambda message: message.retain)
        assert not late.on("gw/dev/goes")


def test_a_renamed_bus_keeps_the_retained_values_of_its_points(gateway, client, modbus_server):
    from support.modbus import Unit

    server = modbus_server(units={1: Unit(holding={0: 1})})
    points = device(['name = "p"\nholding = 0'])
    started = gateway(mapping=server.bus("one") + points).start()
    listener = client(started)
    listener.subscribe("gw/#")
    listener.wait_for("gw/dev/p")
    assert reload(started, mapping=server.bus("two") + points).endswith("INFO reloaded")
    late = client(started)
    late.subscribe("gw/#", "fieldgate/#")
    late.wait_for("gw/dev/p", lambda message: message.retain)
    late.wait_for("fieldgate/gw/bus/two")
    assert not [message for message in listener.on("gw/dev/p") if not message.payload]
