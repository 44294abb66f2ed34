"""Mosquitto: the upstream broker of the uplink tests, and the stand-in that proves the broker tests right."""

import subprocess
from pathlib import Path

from .process import Process
from .wait import free_port, listening, until


class Mosquitto:
    """`config` stands after the listener; without one, everybody may do everything."""

    def __init__(self, directory, config="allow_anonymous true\n", *, port=None, listener=True):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.process = None
        first = f"listener {self.port} 127.0.0.1\n" if listener else ""
        self.file = self.directory / "mosquitto.conf"
        base = f"per_listener_settings false\npersistence true\npersistence_location {self.directory}/\n"
        base += "autosave_on_changes true\nautosave_interval 1\nlog_type all\nlog_dest stderr\n"
        base += "max_queued_messages 0\nuser root\n"
        self.file.write_text(base + first + config)

    def start(self):
        self.process = Process(["mosquitto", "-c", self.file])
        until("mosquitto", lambda: listening(self.port) or not self.process.alive)
        assert self.process.alive, self.process.output
        return self

    def stop(self):
        if self.process and self.process.alive:
            self.process.terminate()

    def kill(self):
        self.process.kill()

    close = stop

    def password_file(self, users):
        path = self.directory / "passwords"
        path.write_text("")
        for name, password in users.items():
            subprocess.run(["mosquitto_passwd", "-b", str(path), name, password], check=True)
        return path
