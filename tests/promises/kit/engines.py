"""Brokers for upstream from Debian's packages: unpacked under ~/.cache/fieldgate, never installed, so that no service starts."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.process import Process
from support.wait import free_port, listening, until

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fieldgate" / "engines"


def unpacked(name, *packages):
    """The folder that holds the packages' files; the test is skipped where they cannot be had."""
    folder = CACHE / name
    if not (folder / "ready").exists():
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            pytest.skip(f"{name}: neither unpacked yet nor a Debian machine")
        debs = folder / "debs"
        debs.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "update", "-qq"], check=False, capture_output=True)
        got = subprocess.run(["apt-get", "download", "-qq", *packages], cwd=debs, capture_output=True, text=True, check=False)
        if got.returncode:
            pytest.skip(f"{name}: its packages cannot be fetched: {got.stderr.strip()[-300:]}")
        for deb in debs.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", deb, folder], check=True)
        shutil.rmtree(debs)
        (folder / "ready").touch()
    return folder


class Nats:
    """Three nodes with JetStream, each with an MQTT listener; `kill(N)` ends one."""

    def __init__(self, directory):
        program = unpacked("nats", "nats-server") / "usr/sbin/nats-server"
        if not program.exists():
            program = unpacked("nats", "nats-server") / "usr/bin/nats-server"
        names = [f"n{number}" for number in range(3)]
        self.ports = [free_port() for _ in names]
        routes = [free_port() for _ in names]
        self.nodes = []
        self.files = []
        for name, port, route in zip(names, self.ports, routes):
            others = ", ".join(f'"nats://127.0.0.1:{other}"' for other in routes if other != route)
            file = directory / f"{name}.conf"
            file.write_text(
                f'server_name: {name}\nlisten: "127.0.0.1:{free_port()}"\n'
                f'jetstream {{ store_dir: "{directory}/{name}" }}\n'
                f'mqtt {{ listen: "127.0.0.1:{port}", ack_wait: "5s", max_ack_pending: 1000, stream_replicas: 3 }}\n'
                f'cluster {{ name: c, listen: "127.0.0.1:{route}", routes: [{others}] }}\n'
            )
            self.files.append(file)
            self.nodes.append(Process([program, "-c", file]))
        for node, port in zip(self.nodes, self.ports):
            until("a NATS node", lambda port=port, node=node: listening(port) or not node.alive, timeout=30)
            assert node.alive, node.output
        self.nodes[0].wait_for_line("a leader of the metadata", lambda _: any(self._has_leader(n) for n in self.nodes), 30)

    @staticmethod
    def _has_leader(node):
        return "JetStream cluster new metadata leader" in node.output or "cluster metadata leader" in node.output

    def kill(self, number):
        self.nodes[number].kill()

    def close(self):
        for node in self.nodes:
            if node.alive:
                node.terminate()


class Rabbit:
    """RabbitMQ with its MQTT plugin, with a name, ports and folders of its own."""

    PACKAGES = ("rabbitmq-server", "erlang-base", "erlang-asn1", "erlang-crypto", "erlang-eldap", "erlang-ftp", "erlang-inets",
                "erlang-mnesia", "erlang-os-mon", "erlang-parsetools", "erlang-public-key", "erlang-runtime-tools",
                "erlang-snmp", "erlang-ssl", "erlang-syntax-tools", "erlang-tftp", "erlang-tools", "erlang-xmerl")  # fmt: skip

    def __init__(self, directory):
        root = unpacked("rabbitmq", *self.PACKAGES)
        home = next((root / "usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
        erlang = root / "usr/lib/erlang"
        launcher = erlang / "bin/erl"  # it knows one place only
        launcher.write_text(launcher.read_text().replace("ROOTDIR=/usr/lib/erlang", f"ROOTDIR={erlang}").replace('ROOTDIR="/usr/lib/erlang"', f'ROOTDIR="{erlang}"'))
        self.port = free_port()
        folders = {name: directory / name for name in ("mnesia", "log", "home")}
        for folder in folders.values():
            folder.mkdir(parents=True)
        (directory / "plugins").write_text("[rabbitmq_mqtt].\n")
        (directory / "rabbitmq.conf").write_text(
            f"listeners.tcp = none\nmqtt.listeners.tcp.1 = 127.0.0.1:{self.port}\nmqtt.allow_anonymous = true\n"
            "mqtt.vhost = /\nmqtt.exchange = amq.topic\nmqtt.subscription_ttl = 86400000\nmqtt.prefetch = 500\n"
            "log.file = false\nlog.console = true\nlog.console.level = warning\nloopback_users = none\n"
        )
        self.environment = {
            "HOME": str(folders["home"]), "ROOTDIR": str(erlang), "ERL_ROOTDIR": str(erlang),
            "BINDIR": str(next(erlang.glob("erts-*")) / "bin"), "EMU": "beam",
            "PATH": f"{erlang}/bin:{os.environ['PATH']}", "ERL_EPMD_PORT": str(free_port()), "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"fieldgate-{self.port}@localhost", "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folders["mnesia"]), "RABBITMQ_LOG_BASE": str(folders["log"]),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"), "RABBITMQ_CONF_ENV_FILE": str(directory / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"), "RABBITMQ_HOME": str(home),
            "RABBITMQ_SERVER_ERL_ARGS": "+S 1:1 +sbwt none", "LC_ALL": "C.UTF-8",
        }  # fmt: skip
        self.program, self.directory = home / "sbin/rabbitmq-server", directory
        epmd = next(path for path in root.rglob("epmd") if path.is_file() and os.access(path, os.X_OK))
        self.names = Process([epmd, "-address", "127.0.0.1", "-port", self.environment["ERL_EPMD_PORT"]])
        until("Erlang's name server", lambda: listening(int(self.environment["ERL_EPMD_PORT"])))
        self.start()

    def start(self):
        self.process = Process([self.program], cwd=self.directory, env=self.environment)
        until("RabbitMQ", lambda: listening(self.port) or not self.process.alive, timeout=120)
        assert self.process.alive, self.process.output

    def kill(self):
        """The node with all that it started."""
        for pid in [*children(self.process.pid), self.process.pid]:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass
        self.process.wait()

    def close(self):
        if self.process.alive:
            self.kill()
        self.names.kill()


def children(pid):
    """Every process that descends from `pid`."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in map(int, task.read_text().split()):
                found += [*children(child), child]
        except FileNotFoundError:
            pass
    return found


__all__ = ["Nats", "Rabbit"]
