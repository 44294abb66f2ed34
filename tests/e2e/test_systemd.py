"""What the service manager is told and what the journal gets, seen from its end of the socket."""

import ctypes
import os
import re
import signal
import socket
import subprocess
import time

import pytest

from support.gateway import binary
from support.modbus import Unit
from support.plant import device
from support.process import Process
from support.wait import free_port, until

WATCHDOG_SECS = 1.0
POINT = 'name = "x"\ninput = 0\ntype = "u16"'


class Manager:
    """systemd's end: every datagram, with the time at which it came."""

    def __init__(self, path):
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)
        self.told = []

    def environment(self, **more):
        return {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": str(int(WATCHDOG_SECS * 1e6)), **more}

    def take(self):
        while True:
            try:
                datagram = self._socket.recv(65536).decode()
            except BlockingIOError:
                return self.told
            self.told.append((time.monotonic(), datagram.splitlines()))

    def lines(self):
        return [line for _, lines in self.take() for line in lines]

    def wait(self, line):
        until(f"{line!r} on the manager's socket", lambda: any(re.fullmatch(line, told) for told in self.lines()))

    def pings(self, since):
        return [at for at, lines in self.take() if at >= since and "WATCHDOG=1" in lines]

    def close(self):
        self._socket.close()


@pytest.fixture
def manager(tmp_path):
    made = Manager(tmp_path / "notify.sock")
    yield made
    made.close()


class HeldThread:
    """One thread of a process stopped where it is, the others running on: ptrace, as nothing else does that."""

    SEIZE, INTERRUPT, DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000

    def __init__(self, pid, name):
        self._ptrace = ctypes.CDLL(None, use_errno=True).ptrace
        self._ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        tasks = f"/proc/{pid}/task"
        (self.tid,) = [int(tid) for tid in os.listdir(tasks) if open(f"{tasks}/{tid}/comm").read().strip() == name]
        self._call(self.SEIZE)
        self._call(self.INTERRUPT)
        os.waitpid(self.tid, self.WALL)

    def _call(self, request):
        if self._ptrace(request, self.tid, None, None) != 0:
            number = ctypes.get_errno()
            if request == self.SEIZE and number == 1:
                pytest.skip("this machine does not let a process trace its child (ptrace: EPERM)")
            raise OSError(number, os.strerror(number))

    def release(self):
        self._call(self.DETACH)


def test_the_watchdog_hears_of_a_healthy_gateway_twice_as_often_as_it_must(gateway, modbus_server, manager):
    server = modbus_server("tcp", {1: Unit(input={0: 1})})
    gateway(mapping=server.bus() + device([POINT])).start(env=manager.environment())
    manager.wait("READY=1")
    manager.wait("STATUS=1 of 1 buses up")
    begun = time.monotonic()
    until("five seconds", lambda: manager.take() and time.monotonic() > begun + 5 * WATCHDOG_SECS)
    pings = manager.pings(begun)
    assert len(pings) >= 8, pings


def test_somebody_elses_watchdog_is_left_alone(gateway, manager):
    gateway().start(env=manager.environment(WATCHDOG_PID="1"))
    manager.wait("READY=1")
    time.sleep(2 * WATCHDOG_SECS)
    assert "WATCHDOG=1" not in manager.lines()


def test_a_store_that_hangs_trips_the_watchdog_and_is_named(gateway, manager):
    started = gateway().start(env=manager.environment())
    manager.wait("WATCHDOG=1")
    held = HeldThread(started.process.pid, "store")
    try:
        manager.wait("WATCHDOG=trigger")
        tripped = time.monotonic()
        assert "STATUS=the store's thread hangs" in manager.lines()
        started.process.wait_for_line("the part's name", lambda line: "the store's thread hangs" in line)
        time.sleep(2 * WATCHDOG_SECS)
        assert not manager.pings(tripped), "it goes on saying that all is well"
    finally:
        held.release()


def test_a_loop_that_hangs_tells_the_watchdog_nothing(gateway, manager):
    started = gateway().start(env=manager.environment())
    manager.wait("WATCHDOG=1")
    held = HeldThread(started.process.pid, "fieldgate")
    try:
        stopped = time.monotonic()
        time.sleep(3 * WATCHDOG_SECS)
        assert not manager.pings(stopped)
    finally:
        held.release()
    until("a sign of life", lambda: manager.pings(stopped))


def test_a_reload_is_told_with_its_time_and_a_refused_one_with_its_reason(gateway, modbus_server, manager):
    server = modbus_server("tcp", {1: Unit(input={0: 1})})
    good = server.bus() + device([POINT])
    started = gateway(mapping=good).start(env=manager.environment())
    manager.wait("STATUS=1 of 1 buses up")
    before = len(manager.lines())
    started.write_mapping(good + device(['name = "bad"\ninput = 0\ntype = "u17"'], name="other"))
    started.reload()
    manager.wait(r"STATUS=not reloaded: .*main\.toml:\d+:\d+: .*")
    told = manager.lines()[before:]
    assert "RELOADING=1" in told and any(re.fullmatch(r"MONOTONIC_USEC=\d+", line) for line in told), told
    until("ready again", lambda: "READY=1" in manager.lines()[before:])
    before = len(manager.lines())
    started.write_mapping(good)
    started.reload()
    until("its own status again", lambda: "STATUS=1 of 1 buses up" in manager.lines()[before:])


def test_the_journal_gets_a_priority_a_line_and_neither_time_nor_level(tmp_path):
    """systemd hands a service one end of a stream, and names it in JOURNAL_STREAM."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    about = os.fstat(theirs.fileno())
    port = free_port()
    (tmp_path / "mappings").mkdir()
    (tmp_path / "fieldgate.toml").write_text(f'[gateway]\nid = "gw"\n[[broker.listener]]\nbind = "127.0.0.1:{port}"\n')

    def run():
        environment = {**os.environ, "JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}"}
        command = [str(binary()), "run", "-c", "fieldgate.toml"]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=theirs, stdin=subprocess.DEVNULL)

    ours.settimeout(15)
    log = b""
    child = run()
    while b"ready" not in log:
        log += ours.recv(65536)
    child.send_signal(signal.SIGTERM)
    assert child.wait(10) == 0
    lines = log.decode().splitlines()
    assert "<6>ready" in lines, lines
    assert all(re.match(r"<[3-7]>\S", line) for line in lines), lines
    assert not re.search(r"\d\d:\d\d:\d\d| INFO ", log.decode())
    assert "<6>stopped" in until("the last line", lambda: ours.recv(65536).decode()).splitlines()

    (tmp_path / "fieldgate.toml").write_text('[gateway]\nid = "no good id"\n')
    child = run()
    assert child.wait(10) == 2
    refused = ours.recv(65536).decode().splitlines()
    assert any(re.match(r"<3>fieldgate\.toml:2:\d+: ", line) for line in refused), refused
    assert all(re.match(r"<[34]>\S", line) for line in refused), refused
    ours.close()
    theirs.close()


def test_a_journal_that_is_somebody_elses_changes_nothing():
    started = Process([binary(), "check", "-c", "/nowhere.toml"], env={"JOURNAL_STREAM": "1:2"})
    assert started.wait() == 2
    assert not any(line.startswith("<") for line in started.lines)
