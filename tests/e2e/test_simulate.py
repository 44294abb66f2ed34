"""`fieldgate simulate`: what it stands in for is read by pymodbus clients and by `fieldgate run`; faults on request."""

import ssl

import pytest
from pymodbus import FramerType
from pymodbus.client import ModbusTcpClient, ModbusTlsClient
from pymodbus.exceptions import ModbusException

from support.certificates import authority, certificate
from support.gateway import ROOT, Gateway, binary, command
from support.process import Process
from support.wait import free_port, until

POINT = '[[modbus.device.point]]\nname = "x"\nholding = 0\ntype = "u16"\nwrite = { min = 0, max = 60000 }\n'


def bus(name, where, *devices, keys=""):
    text = f'[[modbus]]\nname = "{name}"\n{where}\ntimeout_ms = 300\n{keys}\n'
    return text + "".join(f'[[modbus.device]]\nname = "{of}"\nunit = {unit}\n{POINT}' for unit, of in devices)


@pytest.fixture
def simulated(tmp_path, ends):
    """Starts `fieldgate simulate` on a mapping."""

    def make(mapping, *arguments, buses=1):
        files = Gateway(tmp_path / "simulated", mapping=mapping)
        process = Process([binary(), "simulate", "-c", files.file, *arguments], cwd=files.directory)
        ends.add(process.terminate)
        until("the simulated buses", lambda: len([line for line in process.lines if ": " in line]) >= buses)
        return process

    return make


def holds(client, unit, value):
    """Writes a register and reads it back."""
    assert client.connect()
    written = client.write_register(0, value, device_id=unit)
    assert not written.isError(), written
    return client.read_holding_registers(0, count=1, device_id=unit).registers == [value]


def test_pymodbus_reads_and_writes_every_framing(simulated, tmp_path):
    folder = tmp_path / "certificates"
    ca = authority(folder)
    cert, key = certificate(folder, "server", "localhost")
    ports = [free_port() for _ in range(4)]
    wheres = [f'{kind} = "127.0.0.1:{port}"' for kind, port in zip(("tcp", "rtu_over_tcp", "ascii_over_tcp"), ports)]
    wheres.append(f'tcp = "127.0.0.1:{ports[3]}"\ntls = {{ ca = "{ca}" }}')
    mapping = "".join(bus(f"bus{n}", where, (1, f"d{n}")) for n, where in enumerate(wheres))
    simulated(mapping, "--tls-cert", cert, "--tls-key", key, buses=4)
    for port, framer in zip(ports, (FramerType.SOCKET, FramerType.RTU, FramerType.ASCII)):
        client = ModbusTcpClient("127.0.0.1", port=port, framer=framer)
        assert holds(client, 1, 4242), framer
        client.close()
    context = ssl.create_default_context(cafile=str(ca))
    context.check_hostname = False
    client = ModbusTlsClient("127.0.0.1", port=ports[3], sslctx=context)
    assert holds(client, 1, 4243)
    client.close()


def test_a_silent_device_is_silent_and_its_neighbour_is_not(simulated):
    port = free_port()
    mapping = bus("line", f'rtu_over_tcp = "127.0.0.1:{port}"', (1, "well"), (2, "sick"))
    process = simulated(mapping, "--fault", "sick:silent", "--seed", "7", buses=2)
    assert "seed 7" in process.output
    client = ModbusTcpClient("127.0.0.1", port=port, framer=FramerType.RTU, timeout=0.5, retries=0)
    assert holds(client, 1, 5)
    with pytest.raises(ModbusException):
        client.read_holding_registers(0, count=1, device_id=2)
    client.close()


def test_an_exception_on_request_is_that_exception(simulated):
    port = free_port()
    simulated(bus("line", f'tcp = "127.0.0.1:{port}"', (1, "meter")), "--fault", "line:exception-4:100", buses=2)
    client = ModbusTcpClient("127.0.0.1", port=port)
    assert client.connect()
    assert client.read_holding_registers(0, count=1, device_id=1).exception_code == 4
    client.close()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("nobody:late", "nobody"), ("meter:dead", "silent"), ("meter:late:200", "percentage"), ("meter", "DEVICE:KIND")],
)
def test_a_fault_that_cannot_be_is_refused_with_a_reason(tmp_path, fault, reason):
    files = Gateway(tmp_path / "g", mapping=bus("line", f'tcp = "127.0.0.1:{free_port()}"', (1, "meter")))
    refused = command("simulate", "-c", files.file, "--fault", fault, cwd=files.directory)
    assert refused.returncode in (1, 2)
    assert reason in refused.stdout + refused.stderr


def test_the_gateway_reads_the_stand_in_of_every_shipped_profile(gateway, client, simulated):
    profiles = sorted(path.stem for path in (ROOT / "mappings" / "profiles").glob("*.toml"))
    assert len(profiles) >= 15
    mapping = ""
    for number, name in enumerate(profiles):
        mapping += f'[[modbus]]\nname = "bus{number}"\ntcp = "127.0.0.1:{free_port()}"\n'
        mapping += f'[[modbus.device]]\nname = "d{number}"\nunit = 1\nprofile = "{name}"\ninterval_ms = 1000\n'
    simulated(mapping, buses=len(profiles))
    started = gateway(mapping=mapping).start()
    listener = client(started)
    listener.subscribe("gw/#")

    def readings():
        """Device, topic and what it says; a point may be published bare."""
        for message in list(listener.messages):
            said = message.json if message.payload.startswith(b"{") else {"value": message.text}
            yield int(message.topic.split("/")[1][1:]), message.topic, said

    def unread():
        heard = {number for number, _, said in readings() if said["value"] is not None}
        return {name for number, name in enumerate(profiles) if number not in heard}

    until("a value of every profile", lambda: not unread(), timeout=30)
    faults = {(profiles[number], topic, said["fault"]) for number, topic, said in readings() if said["value"] is None}
    assert not {fault for fault in faults if fault[2] != "not_available"}
