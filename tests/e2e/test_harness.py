"""The peers themselves: a scenario that fails must mean the gateway, not the stand-ins around it."""

import pytest
from pymodbus import FramerType
from pymodbus.client import ModbusSerialClient, ModbusTcpClient
from pymodbus.exceptions import ModbusIOException

from support.modbus import Unit


def modbus_client(server):
    if server.kind == "rtu":
        return ModbusSerialClient(str(server.gateway_side), baudrate=server.baud, timeout=0.5, retries=0)
    framer = FramerType.RTU if server.kind == "rtu_over_tcp" else FramerType.SOCKET
    return ModbusTcpClient("127.0.0.1", port=server.port, framer=framer, timeout=0.5, retries=0)


@pytest.mark.parametrize("kind", ["tcp", "rtu_over_tcp", "rtu"])
def test_the_modbus_server_keeps_four_tables_and_records_requests(modbus_server, kind):
    unit = Unit(coil={3: True}, discrete={4: False}, input={5: 501}, holding={6: 601, 7: 602})
    server = modbus_server(kind, {1: unit, 2: Unit(silent=True)})
    with modbus_client(server) as client:
        assert client.read_coils(3, count=1, device_id=1).bits[0] is True
        assert client.read_discrete_inputs(4, count=1, device_id=1).bits[0] is False
        assert client.read_input_registers(5, count=1, device_id=1).registers == [501]
        assert client.read_holding_registers(6, count=2, device_id=1).registers == [601, 602]
        assert client.read_input_registers(6, count=1, device_id=1).exception_code == 2
        client.write_register(6, 611, device_id=1)
        client.write_registers(6, [621, 622], device_id=1)
        client.write_coil(3, False, device_id=1)
        client.write_coils(3, [True], device_id=1)
        assert unit.holding == {6: 621, 7: 622}
        assert unit.coil == {3: True}
        with pytest.raises(ModbusIOException):
            client.read_coils(3, count=1, device_id=2)
    assert [r.function for r in server.requests] == [1, 2, 4, 3, 4, 6, 16, 5, 15, 1]
    assert [r.values for r in server.writes()[:2]] == [(611,), (621, 622)]


def test_the_modbus_server_stops_and_comes_back_on_its_port(modbus_server):
    server = modbus_server("tcp", {1: Unit(input={0: 1})})
    with modbus_client(server) as client:
        assert client.read_input_registers(0, device_id=1).registers == [1]
    server.stop()
    assert not modbus_client(server).connect()
    server.start()
    with modbus_client(server) as client:
        assert client.read_input_registers(0, device_id=1).registers == [1]


def test_the_upstream_broker_keeps_its_state_over_a_restart(mosquitto, client):
    broker = mosquitto().start()
    client(broker).publish("kept", "1", retain=True)
    broker.stop()
    broker.start()
    late = client(broker)
    late.subscribe("kept")
    assert late.wait_for("kept").retain
