"""`fieldgate watch` on Mosquitto and on the demo's own broker."""

import os
import pty
import re
import select
import signal
import subprocess
import time

from support.gateway import binary, command
from support.mosquitto import Mosquitto
from support.process import Process
from support.wait import free_port, until


def publish(port, topic, payload, *more):
    subprocess.run(
        ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(port), "-t", topic, "-m", payload, *more], check=True, timeout=10
    )


def start_mosquitto(ends, tmp_path, config="allow_anonymous true\n"):
    broker = Mosquitto(tmp_path / "mosquitto", config)
    broker.start()
    ends.add(broker.process.kill)
    return broker


def start_watch(ends, *arguments, env=None):
    process = Process([binary(), "watch", *arguments], env=env)
    ends.add(process.kill)
    return process


LINE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (\S+) (.*)$")


def test_a_pipe_gets_a_line_a_message_and_sigterm_ends_it(ends, tmp_path):
    broker = start_mosquitto(ends, tmp_path)
    publish(broker.port, "a/kept", "here", "-r")
    watch = start_watch(ends, f"mqtt://127.0.0.1:{broker.port}", "a/#")
    watch.wait_for_line("the retained message", lambda line: LINE.match(line))
    publish(broker.port, "b/other", "unasked")
    publish(broker.port, "a/text", "two\nlines")
    watch.wait_for_line("the second message", lambda line: "a/text" in line)
    assert [LINE.match(line).groups() for line in watch.lines] == [("a/kept", "here"), ("a/text", r"two\nlines")]
    code, seconds = watch.terminate()
    assert code == 0 and seconds < 2


def test_a_closed_pipe_ends_it_even_when_nothing_comes(ends, tmp_path):
    broker = start_mosquitto(ends, tmp_path)
    reading, writing = os.pipe()
    watch = subprocess.Popen([binary(), "watch", f"mqtt://127.0.0.1:{broker.port}"], stdout=writing)
    os.close(writing)
    time.sleep(0.5)
    assert watch.poll() is None
    os.close(reading)
    assert watch.wait(5) == 0


def test_it_connects_anew_when_the_broker_comes_back(ends, tmp_path):
    broker = start_mosquitto(ends, tmp_path)
    watch = start_watch(ends, f"mqtt://127.0.0.1:{broker.port}")
    publish(broker.port, "a", "1", "-r")
    watch.wait_for_line("the first message", lambda line: line.endswith(" a 1"))
    broker.process.kill()
    watch.wait_for_line("the loss", lambda line: "not connected" in line)
    broker.start()
    ends.add(broker.process.kill)
    publish(broker.port, "a", "2", "-r")
    watch.wait_for_line("the message after", lambda line: line.endswith(" a 2"), 20)


def test_a_password_comes_from_the_environment_and_never_from_the_url(ends, tmp_path):
    users = tmp_path / "users"
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(users), "ann", "hush"], check=True, capture_output=True)
    broker = start_mosquitto(ends, tmp_path, f"allow_anonymous false\npassword_file {users}\n")
    url = f"mqtt://ann@127.0.0.1:{broker.port}"
    watch = start_watch(ends, url, env={"FIELDGATE_PASSWORD": "hush"})
    until("the message", lambda: publish(broker.port, "a", "1", "-u", "ann", "-P", "hush") or watch.lines)
    assert "hush" not in watch.output
    wrong = command("watch", url)
    assert wrong.returncode == 1 and "password" in wrong.stderr
    shown = command("watch", f"mqtt://ann:hush@127.0.0.1:{broker.port}")
    assert shown.returncode == 2 and "FIELDGATE_PASSWORD" in shown.stderr


def test_no_broker_and_bad_usage_are_told(ends):
    nobody = command("watch", f"mqtt://127.0.0.1:{free_port()}")
    assert nobody.returncode == 1 and "is a broker running there" in nobody.stderr
    assert command("watch", "mqtt://127.0.0.1", "a/#/b").returncode == 2
    assert command("watch", "http://127.0.0.1").returncode == 2


def test_a_terminal_shows_the_demo_s_values_with_unit_age_and_quality(ends):
    demo = Process([binary(), "demo"])
    ends.add(demo.kill)
    line = demo.wait_for_line("its introduction", lambda line: "mosquitto_sub" in line)
    port = re.search(r"-p (\d+)", line).group(1)
    near, far = pty.openpty()
    watch = subprocess.Popen([binary(), "watch", f"mqtt://127.0.0.1:{port}", "demo/#"], stdout=far, stderr=far)
    os.close(far)
    ends.add(lambda: watch.poll() is None and watch.kill())
    seen = bytearray()

    def shows():
        if select.select([near], [], [], 0.2)[0]:
            seen.extend(os.read(near, 65536))
        text = seen.decode(errors="replace")
        return re.search(r"demo/\S+ +[\d.]+ °C +\d+\.\d s +(good|clock)", text)

    until("a temperature in the table", shows)
    assert "\x1b[?1049h" in seen.decode(errors="replace")
    watch.send_signal(signal.SIGINT)
    ended = bytearray()
    try:
        while True:
            ended.extend(os.read(near, 65536))
    except OSError:
        pass
    assert watch.wait(5) == 0
    assert "\x1b[?1049l" in ended.decode(errors="replace")
    code, _ = demo.terminate()
    assert code == 0
