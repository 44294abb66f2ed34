"""pymodbus servers in a thread: TCP, RTU over TCP, RTU on a pseudo-terminal.

Framing, requests and answers are pymodbus's own; only the registers are kept here, so that a test can change
them, make a unit silent, or have it answer with an exception, while the server runs.
"""

import asyncio
import subprocess
import threading
import time
from dataclasses import dataclass, field

from pymodbus import FramerType
from pymodbus.constants import ExcCodes
from pymodbus.exceptions import NoSuchIdException
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from .wait import free_port, listening, until

TABLES = {1: "coil", 2: "discrete", 3: "holding", 4: "input", 5: "coil", 6: "holding", 15: "coil", 16: "holding"}
TABLES |= {22: "holding", 23: "holding"}


@dataclass
class Unit:
    """One Modbus unit; an address that is in no table is answered with exception 2."""

    coil: dict = field(default_factory=dict)
    discrete: dict = field(default_factory=dict)
    input: dict = field(default_factory=dict)
    holding: dict = field(default_factory=dict)
    silent: bool = False
    exception: ExcCodes | None = None
    ignores_writes: bool = False

    def lay(self, table, address, words):
        getattr(self, table).update({address + place: word for place, word in enumerate(words)})


@dataclass(frozen=True)
class Request:
    at: float
    unit: int
    function: int
    address: int
    count: int
    values: tuple


class _Registers:
    """What pymodbus asks for values."""

    def __init__(self, units):
        self.units = units

    def device_ids(self):
        return list(self.units)

    def _unit(self, unit_id):
        unit = self.units.get(unit_id)
        if unit is None or unit.silent:
            raise NoSuchIdException(f"unit {unit_id} does not answer")
        return unit

    async def async_getValues(self, device_id, func_code, address, count=1):
        unit = self._unit(device_id)
        if unit.exception:
            return unit.exception
        table = getattr(unit, TABLES[func_code])
        try:
            return [table[address + place] for place in range(count)]
        except KeyError:
            return ExcCodes.ILLEGAL_ADDRESS

    async def async_setValues(self, device_id, func_code, address, values):
        unit = self._unit(device_id)
        if unit.exception:
            return unit.exception
        table = getattr(unit, TABLES[func_code])
        if any(address + place not in table for place in range(len(values))):
            return ExcCodes.ILLEGAL_ADDRESS
        if not unit.ignores_writes:
            table.update({address + place: value for place, value in enumerate(values)})
        return None


class ModbusServer:
    """`kind` is `tcp`, `rtu_over_tcp` or `rtu`; the units may be changed at any time."""

    def __init__(self, kind, units, directory=None, baud=115200):
        self.kind = kind
        self.units = units
        self.requests = []
        self.baud = baud
        self._socat = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = None
        if kind == "rtu":
            self.device_side = directory / "device.tty"
            self.gateway_side = directory / "gateway.tty"
            self._lay_line()
        else:
            self.port = free_port()

    def _lay_line(self):
        ends = [f"pty,rawer,link={end}" for end in (self.device_side, self.gateway_side)]
        self._socat = subprocess.Popen(["socat", *ends])
        until("the pseudo-terminals", lambda: self.device_side.exists() and self.gateway_side.exists())

    def _cut_line(self):
        self._socat.terminate()
        self._socat.wait(5)
        for end in (self.device_side, self.gateway_side):
            end.unlink(missing_ok=True)

    def unplug(self):
        """Both ends hang up, and their names go, as when a USB adapter is pulled."""
        self.stop()
        self._cut_line()

    def plug_in(self):
        self._lay_line()
        self.start()

    def bus(self, name="bus", **keys):
        """The `[[modbus]]` table that reaches this server."""
        if self.kind == "rtu":
            where = [f'serial = "{self.gateway_side}"', f"baud = {self.baud}", 'parity = "none"', "stop_bits = 1"]
        else:
            where = [f'{self.kind} = "127.0.0.1:{self.port}"']
        settings = {"timeout_ms": 500, "retries": 0} | keys
        lines = ["[[modbus]]", f'name = "{name}"', *where, *(f"{key} = {value}" for key, value in settings.items())]
        return "\n".join(lines) + "\n"

    def _note(self, sending, pdu):
        if not sending:
            values = tuple(getattr(pdu, "registers", None) or getattr(pdu, "bits", None) or ())
            self.requests.append(
                Request(
                    time.monotonic(), pdu.dev_id, pdu.function_code, pdu.address, getattr(pdu, "count", 0) or 0, values
                )
            )
        return pdu

    def start(self):
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(10)
        if self.kind != "rtu":
            until("the Modbus server", lambda: listening(self.port))
        return self

    async def _serve(self):
        nothing = SimDevice(1, [SimData(0, count=1, values=0, datatype=DataType.REGISTERS)])
        common = {"ignore_missing_devices": True, "trace_pdu": self._note}
        if self.kind == "rtu":
            self._server = ModbusSerialServer(nothing, port=str(self.device_side), baudrate=self.baud, **common)
        else:
            framer = FramerType.RTU if self.kind == "rtu_over_tcp" else FramerType.SOCKET
            self._server = ModbusTcpServer(nothing, framer=framer, address=("127.0.0.1", self.port), **common)
        self._server.context = _Registers(self.units)
        await self._server.serve_forever(background=True)

    def stop(self):
        """Closes its port and every connection, as a device that loses power."""
        if self._server:
            asyncio.run_coroutine_threadsafe(self._server.shutdown(), self._loop).result(10)
            self._server = None

    def close(self):
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if self._socat:
            self._cut_line()

    def writes(self):
        return [request for request in list(self.requests) if request.function in (5, 6, 15, 16, 22, 23)]

    def reads(self, unit=None):
        return [r for r in list(self.requests) if r.function in (1, 2, 3, 4) and unit in (None, r.unit)]

    def wait_for_reads(self, count, unit=None, timeout=15.0):
        """Waits until so many further reads of the unit have come."""
        before = len(self.reads(unit))
        until(f"{count} further polls", lambda: len(self.reads(unit)) >= before + count, timeout)
