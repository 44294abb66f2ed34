"""In the machine whose power is cut: the gateway on cut-disk.py's disk, a publisher, a sink upstream and a durable session.

    cut-guest.py FIELDGATE FOLDER AFTER SEED SECONDS UPSTREAM(0|1) FIRST...

FOLDER is the host's, and outlives the cut: what was acknowledged is written to `acknowledged`, what arrived to `upstream` and
`session`, each before the answer that follows from it. With SECONDS 0 nothing is published, and it ends when nothing new comes.
"""

import os
import socket
import subprocess
import sys
import threading
import time

PORT, ABOVE = 1883, 1884
LANES = ((0, 1), (1, 2))
"""Topic plant/N, and its QoS."""
WINDOW = 60
CONFIG = f"""
[gateway]
id = "gw"
state_dir = "/tmp/state/fieldgate"
[broker]
max_in_flight = 1000
[[broker.listener]]
bind = "127.0.0.1:{PORT}"
[broker.anonymous]
subscribe = ["#"]
publish = ["#"]
[[uplink]]
name = "cloud"
url = "mqtt://127.0.0.1:{ABOVE}"
forward = ["plant/#"]
drain_per_sec = 100000
"""


def variable(number):
    out = bytearray()
    while True:
        number, low = divmod(number, 128)
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)


def text(value):
    return len(value).to_bytes(2, "big") + value


class Link:
    """Packets over a socket."""

    def __init__(self, sock):
        self.sock, self.input, self.come = sock, b"", []
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, *packets):
        self.sock.sendall(b"".join(bytes([head]) + variable(len(body)) + body for head, body in packets))

    def packets(self):
        """What has come, whole packets only; blocks for the first."""
        found, self.come = self.come, []
        while not found:
            more = self.sock.recv(65536)
            if not more:
                raise OSError("closed")
            self.input += more
            while (packet := self._one()) is not None:
                found.append(packet)
        return found

    def _one(self):
        length = shift = 0
        for at in range(1, min(len(self.input), 5)):
            length |= (self.input[at] & 0x7F) << shift
            shift += 7
            if not self.input[at] & 0x80:
                end = at + 1 + length
                if len(self.input) < end:
                    return None
                packet = self.input[0], self.input[at + 1 : end]
                self.input = self.input[end:]
                return packet
        return None


def published(head, body, version):
    """Topic, packet identifier, payload, boot and seq."""
    end = 2 + int.from_bytes(body[:2], "big")
    topic, at, packet_id = body[2:end].decode(), end, None
    if head >> 1 & 3:
        packet_id, at = body[at : at + 2], at + 2
    mark = ""
    if version == 5:
        length = body[at]  # the gateway's own properties are shorter than 128 bytes
        properties, at = body[at + 1 : at + 1 + length], at + 1 + length
        fields, place = {}, 0
        while place < len(properties):
            if properties[place] != 0x26:
                break
            pair, place = [], place + 1
            for _ in range(2):
                size = int.from_bytes(properties[place : place + 2], "big")
                pair.append(properties[place + 2 : place + 2 + size].decode())
                place += 2 + size
            fields[pair[0]] = pair[1]
        mark = f"{fields.get('boot')}:{fields.get('seq')}"
    return topic, packet_id, body[at:], mark


def sink(folder):
    out = os.open(f"{folder}/upstream", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    server = socket.create_server(("127.0.0.1", ABOVE))
    while True:
        sock, _ = server.accept()
        threading.Thread(target=serve, args=(Link(sock), out), daemon=True).start()


def serve(link, out):
    try:
        while True:
            lines, answers = [], []
            for head, body in link.packets():
                kind = head >> 4
                if kind == 1:
                    answers.append((0x20, b"\0\0\0"))
                elif kind == 8:
                    answers.append((0x90, body[:2] + b"\0\1"))
                elif kind == 12:
                    answers.append((0xD0, b""))
                elif kind == 3:
                    topic, packet_id, payload, mark = published(head, body, 5)
                    if topic.startswith("plant/"):
                        lines.append(f"{topic} {int(payload[:8])} {mark}\n")
                    if packet_id:
                        answers.append((0x40, packet_id))
            if lines:
                os.write(out, "".join(lines).encode())
            link.send(*answers)
    except OSError:
        pass


def connect(client_id, timeout=20):
    end = time.monotonic() + timeout
    while True:
        try:
            link = Link(socket.create_connection(("127.0.0.1", PORT)))
            link.send((0x10, text(b"MQTT") + b"\4\0\0\0" + text(client_id)))  # 3.1.1, its session kept
            connack, *link.come = link.packets()
            assert connack[0] == 0x20
            return link
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def session(folder, subscribed):
    """A durable session. What QoS 2 asks its client to remember is in its file too: `+ID` received, `-ID` released."""
    out = os.open(f"{folder}/session", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    received = set()
    with open(f"{folder}/session") as before:
        for line in before:
            sign, number = line.split()[2][0], line.split()[2][1:]
            (received.add if sign == "+" else received.discard)(number)
    link = connect(b"away")
    os.write(out, b"session 0 =\n")
    link.send((0x82, b"\0\1" + text(b"plant/#") + b"\2"))
    while True:
        lines, answers = [], []
        for head, body in link.packets():
            kind = head >> 4
            if kind == 3:
                topic, packet_id, payload, _ = published(head, body, 4)
                number = packet_id and packet_id.hex()
                if head & 6 == 2:
                    lines.append(f"{topic} {int(payload[:8])} -\n")
                    answers.append((0x40, packet_id))
                elif head & 6 == 4:
                    if number not in received:
                        lines.append(f"{topic} {int(payload[:8])} +{number}\n")
                    received.add(number)
                    answers.append((0x50, packet_id))
            elif kind == 9:
                subscribed.set()
            elif kind == 6:
                received.discard(body[:2].hex())
                lines.append(f"released 0 -{body[:2].hex()}\n")
                answers.append((0x70, body[:2]))
        os.write(out, "".join(lines).encode())
        link.send(*answers)


def publish(folder, seconds, first):
    """Rising numbers on each lane. What was not acknowledged is not sent again: its client is gone for good."""
    out = os.open(f"{folder}/acknowledged", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    told = os.open(f"{folder}/next", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    link = connect(b"publisher-" + os.urandom(6).hex().encode())
    numbers, waiting, packet_id = list(first), {}, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end or waiting:
        burst = []
        while len(waiting) + len(burst) < WINDOW and time.monotonic() < end:
            packet_id = packet_id % 60000 + 1
            lane, qos = LANES[packet_id % len(LANES)]
            payload = f"{numbers[lane]:08}".ljust(400, ".").encode()
            key = packet_id.to_bytes(2, "big")
            burst.append((0x30 | qos << 1, text(f"plant/{lane}".encode()) + key + payload))
            waiting[key] = (lane, numbers[lane])
            numbers[lane] += 1
        if burst:
            # Told before it is sent, so that no number is ever used twice.
            os.write(told, (" ".join(map(str, numbers)) + "\n").encode())
            link.send(*burst)
        lines, answers = [], []
        for head, body in link.packets():
            if head >> 4 in (4, 7):
                lane, number = waiting.pop(body[:2])
                lines.append(f"plant/{lane} {number} -\n")
            elif head >> 4 == 5:
                answers.append((0x62, body[:2]))
        os.write(out, "".join(lines).encode())
        link.send(*answers)


def main():
    fieldgate, folder, after, seed, seconds, upstream, *first = sys.argv[1:]
    disk = [sys.executable, os.path.dirname(__file__) + "/cut-disk.py", f"{folder}/../disk", after, seed, f"{folder}/cuts"]
    disk = subprocess.Popen(disk, stdout=subprocess.PIPE)
    assert disk.stdout.readline() == b"ready\n"
    os.makedirs("/tmp/state")
    for _ in range(100):
        if subprocess.run(["mount", "-t", "ext4", "/dev/nbd0", "/tmp/state"], check=False).returncode == 0:
            break
        time.sleep(0.05)
    else:
        sys.exit("the disk cannot be mounted")
    with open("/tmp/gateway.toml", "w") as file:
        file.write(CONFIG)
    log = open(f"{folder}/log", "ab")
    gateway = subprocess.Popen([fieldgate, "run", "-c", "/tmp/gateway.toml"], stdout=log, stderr=log)
    if upstream == "1":
        threading.Thread(target=sink, args=(folder,), daemon=True).start()
    subscribed = threading.Event()
    threading.Thread(target=session, args=(folder, subscribed), daemon=True).start()
    try:
        # What was published before is not the session's.
        assert subscribed.wait(30), "no SUBACK"
        if float(seconds):
            publish(folder, float(seconds), [int(number) for number in first])
        else:
            settle(folder)
    finally:
        gateway.terminate()
        gateway.wait(10)
        subprocess.run(["umount", "/tmp/state"], check=False)
        disk.kill()


def settle(folder):
    """Until nothing new arrives."""
    sizes = None
    while sizes != (sizes := [os.path.getsize(f"{folder}/{name}") for name in ("upstream", "session")]):
        time.sleep(4)


main()
