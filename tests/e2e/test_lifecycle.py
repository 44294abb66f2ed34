"""Start, stop, reload, and what it tells about itself (sections 4 and 7, P8)."""

import re
import shlex
import signal
import socket
import subprocess
import time

import pytest

from support.gateway import OPEN_BROKER, binary, http, http_json
from support.modbus import Unit
from support.plant import device, value_of
from support.process import Process
from support.wait import free_port, until

POINT = 'name = "x"\ninput = 0\ntype = "u16"'
SECOND = 'name = "y"\ninput = 1\ntype = "u16"'


@pytest.fixture
def running(gateway, client, modbus_server):
    server = modbus_server("tcp", {1: Unit(input={0: 1, 1: 2})})
    started = gateway(mapping=server.bus() + device([POINT])).start()
    listener = client(started)
    listener.subscribe("#")
    started.server = server
    return started, listener


def test_sigterm_stops_it_within_5_s_with_0_and_says_offline(running):
    started, listener = running
    assert listener.wait_for("fieldgate/gw/status").text == "online"
    code, took = started.terminate()
    assert code == 0
    assert took < 5
    listener.wait_for("fieldgate/gw/status", lambda m: m.text == "offline")
    until("the end of the client's connection", lambda: listener.disconnected is not None)


def test_sigint_stops_it_as_sigterm_does(running):
    started, _ = running
    started.process.signal(signal.SIGINT)
    assert started.process.wait(5) == 0


def test_sigterm_stops_it_while_everything_around_it_hangs(gateway, client, modbus_server):
    server = modbus_server("tcp", {1: Unit(silent=True)})
    deaf = socket.socket()
    deaf.bind(("127.0.0.1", 0))
    deaf.listen(1)
    cloud = f'[[uplink]]\nname = "cloud"\nurl = "mqtt://127.0.0.1:{deaf.getsockname()[1]}"\nforward = ["#"]\n'
    started = gateway(OPEN_BROKER + cloud, server.bus(timeout_ms=10000) + device([POINT])).start()
    half_open = socket.create_connection(("127.0.0.1", started.port))
    client(started).publish("x", "1")
    code, took = started.terminate()
    assert code == 0
    assert took < 5
    half_open.close()
    deaf.close()


def test_ready_is_one_line(running):
    started, _ = running
    assert sum(bool(re.search(r"\bready\b", line)) for line in started.process.lines) == 1


def test_systemd_is_told_ready_and_stopping(gateway, tmp_path):
    path = tmp_path / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))
        notify.settimeout(15)
        started = gateway().start(env={"NOTIFY_SOCKET": str(path)})

        def next_with(word):
            seen = []
            while True:
                seen.append(notify.recv(4096).decode())
                if any(line.startswith(word) for line in seen[-1].splitlines()):
                    return seen[-1]

        next_with("READY=1")
        started.terminate()
        next_with("STOPPING=1")


def test_a_reload_adds_a_point_while_a_client_stays_connected(running, client):
    started, listener = running
    value_of(listener, "gw/dev/x")
    boot = listener.wait_for("gw/dev/x").json["boot"]
    started.write_mapping(started.server.bus() + device([POINT, SECOND]))
    started.reload()
    assert value_of(listener, "gw/dev/y") == 2
    assert listener.disconnected is None
    assert listener.wait_for("gw/dev/y").json["boot"] == boot
    started.write_mapping(started.server.bus() + device([SECOND]))
    started.reload()
    until("an end of the point that was removed", lambda: _silent(listener, "gw/dev/x", "gw/dev/y"))
    assert listener.disconnected is None


def _silent(listener, gone, there):
    before = len(listener.on(gone))
    listener.wait_for_count(there, len(listener.on(there)) + 4)
    return len(listener.on(gone)) == before


def test_a_bad_file_on_reload_changes_nothing_and_is_named(running):
    started, listener = running
    value_of(listener, "gw/dev/x")
    started.write_mapping(started.server.bus() + device([POINT, 'name = "bad"\ninput = 0\ntype = "u17"']))
    started.reload()
    started.process.wait_for_line("the mistake's place", lambda line: re.search(r"main\.toml:\d+:\d+: ", line))
    listener.wait_for_count("gw/dev/x", len(listener.on("gw/dev/x")) + 3)
    assert started.process.alive
    assert listener.disconnected is None
    started.write_mapping(started.server.bus() + device([POINT, SECOND]))
    started.reload()
    assert value_of(listener, "gw/dev/y") == 2


def test_a_reload_leaves_a_bus_that_did_not_change_alone(gateway, client, modbus_server):
    kept, changed = modbus_server("tcp", {1: Unit(input={0: 1})}), modbus_server("tcp", {1: Unit(input={0: 2, 1: 3})})
    first = kept.bus("kept") + device([POINT], name="a", interval=50)
    started = gateway(mapping=first + changed.bus("changed") + device([POINT], name="b")).start()
    listener = client(started)
    listener.subscribe("gw/#")
    value_of(listener, "gw/b/x")
    begun = time.monotonic()
    started.write_mapping(first + changed.bus("changed") + device([POINT, SECOND], name="b"))
    started.reload()
    assert value_of(listener, "gw/b/y") == 3
    listener.wait_for_count("gw/a/x", len(listener.on("gw/a/x")) + 5)
    times = [r.at for r in kept.reads() if r.at > begun - 0.5]
    assert max(later - earlier for earlier, later in zip(times, times[1:])) < 0.5


def test_the_status_page_tells_health_metrics_and_state(gateway, client, modbus_server):
    server = modbus_server("tcp", {1: Unit(input={0: 1})})
    port = free_port()
    status = f'[status]\nbind = "127.0.0.1:{port}"\n'
    started = gateway(OPEN_BROKER + status, server.bus("line") + device([POINT])).start()
    listener = client(started)
    listener.subscribe("#")
    value_of(listener, "gw/dev/x")
    assert http(port, "/healthz")[0] == 200
    code, metrics = http(port, "/metrics")
    assert code == 200
    samples = [line for line in metrics.splitlines() if line and not line.startswith("#")]
    assert samples and all(re.match(r"^[a-z_]\w*(\{[^}]*\})? [-+0-9.eE]+$", line) for line in samples), metrics
    assert "line" in metrics and "dev" in metrics
    state = http_json(port, "/api/state")
    assert "dev" in str(state) and "line" in str(state)
    code, page = http(port, "/")
    assert code == 200 and "<html" in page.lower()
    assert http(port, "/no-such-page")[0] == 404


def test_its_own_topics_are_retained_json(gateway, client, modbus_server):
    server = modbus_server("tcp", {1: Unit(input={0: 1})})
    cloud = f'[[uplink]]\nname = "cloud"\nurl = "mqtt://127.0.0.1:{free_port()}"\nforward = ["plant/#"]\n'
    started = gateway(OPEN_BROKER + cloud, server.bus("line") + device([POINT])).start()
    topics = [f"fieldgate/gw/{name}" for name in ("device/dev", "bus/line", "uplink/cloud", "store")]
    first = client(started)
    first.subscribe("fieldgate/#")
    for topic in topics:
        first.wait_for(topic)
    late = client(started)
    late.subscribe("fieldgate/#")
    for topic in topics:
        kept = late.wait_for(topic)
        assert kept.retain, topic
        assert isinstance(kept.json, dict)
    assert late.wait_for("fieldgate/gw/status").retain


def test_a_port_in_use_is_a_clear_error_with_1(gateway):
    first = gateway().start()
    second = gateway(directory="second")
    second.port = first.port
    second.write_config(OPEN_BROKER)
    process = second.launch()
    assert process.wait() == 1
    assert str(first.port) in process.output
    assert "in use" in process.output.lower()
    assert first.process.alive


def test_a_second_gateway_on_the_same_store_is_refused(gateway):
    first = gateway().start()
    second = gateway(directory="second")
    second.file.write_text(second.file.read_text().replace('"state"', f'"{first.directory / "state"}"'))
    process = second.launch()
    assert process.wait() == 1
    assert first.process.alive


def test_a_corrupt_store_is_moved_aside_and_the_gateway_runs_on(gateway, client):
    cloud = f'[[uplink]]\nname = "cloud"\nurl = "mqtt://127.0.0.1:{free_port()}"\nforward = ["plant/#"]\n'
    made = gateway(OPEN_BROKER + cloud).start()
    client(made).publish("plant/x", "1")
    made.kill()
    files = [file for file in (made.directory / "state").rglob("*") if file.is_file()]
    assert files
    for file in files:
        file.write_bytes(b"this is no database" * 1000)
    made.start()
    client(made).publish("plant/x", "2")
    assert made.process.alive


def demo(ends):
    process = Process([binary(), "demo"])
    ends.add(process.kill)

    def line_with(tool):
        found = process.wait_for_line(f"a {tool} line", lambda line: re.search(rf"\b{tool} ", line), timeout=30)
        return found[found.index(tool) :].strip()

    return process, line_with("mosquitto_sub"), line_with("mosquitto_pub")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_the_lines_that_demo_prints_work_as_they_stand(ends, number):
    process, subscribe, publish = demo(ends)
    listening = subprocess.Popen(
        ["bash", "-c", "exec " + subscribe], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    ends.add(lambda: (listening.kill(), listening.wait()))
    assert listening.stdout.readline().strip(), "the mosquitto_sub line prints nothing"
    done = subprocess.run(["bash", "-c", publish], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    words = shlex.split(publish)
    topic = words[words.index("-t") + 1]
    where = [word for flag in ("-h", "-p") if flag in words for word in (flag, words[words.index(flag) + 1])]
    again = subprocess.Popen(
        ["mosquitto_sub", *where, "-t", f"{topic}/result", "-C", "1", "-W", "15"], stdout=subprocess.PIPE, text=True
    )
    ends.add(lambda: (again.kill(), again.wait()))

    def answered():
        subprocess.run(["bash", "-c", publish], capture_output=True, timeout=20, check=False)
        return again.poll() is not None

    until("a result of the printed command", answered, every=0.3)
    assert '"status":"done"' in again.stdout.read().replace(" ", "")
    process.signal(number)
    assert process.wait(10) == 0


def test_a_second_demo_takes_the_next_free_port(ends):
    first, one, _ = demo(ends)
    second, two, _ = demo(ends)
    assert one != two
    assert first.alive and second.alive


def test_demos_started_at_the_same_moment_each_find_their_ports_and_leave_no_folder(ends, tmp_path):
    processes = [Process([binary(), "demo"], env={"TMPDIR": str(tmp_path)}) for _ in range(4)]
    for process in processes:
        ends.add(process.kill)
    ports = set()
    for process in processes:
        line = process.wait_for_line("a mosquitto_sub line", lambda line: "mosquitto_sub" in line, timeout=30)
        ports.add(re.search(r"-p (\d+)", line).group(1))
    assert len(ports) == 4
    assert len(list(tmp_path.iterdir())) == 4
    for process in processes:
        process.signal(signal.SIGTERM)
    assert [process.wait(10) for process in processes] == [0] * 4
    assert not list(tmp_path.iterdir())


def test_simulate_stands_in_for_the_devices_of_a_configuration(gateway, client, ends):
    mapping = f'[[modbus]]\nname = "bus"\ntcp = "127.0.0.1:{free_port()}"\n' + device([POINT, SECOND])
    made = gateway(mapping=mapping)
    simulator = Process([binary(), "simulate", "-c", made.file])
    ends.add(simulator.kill)
    made.start()
    listener = client(made)
    listener.subscribe("gw/#")
    listener.wait_for("gw/dev/x", lambda m: m.json["value"] is not None, timeout=30)
    simulator.signal(signal.SIGTERM)
    assert simulator.wait(10) == 0
