"""The gateway under test: a directory with its files, and the running binary."""

import json
import os
import re
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from .process import Process
from .wait import PATIENCE, free_port, until

ROOT = Path(__file__).resolve().parents[3]


def binary():
    """The binary under test: `FIELDGATE`, or the debug build."""
    given = os.environ.get("FIELDGATE")
    if given:
        return Path(given).resolve()
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return (ROOT / target / "debug" / "fieldgate").resolve()


def command(*arguments, stdin=None, cwd=None, timeout=60):
    """Runs `fieldgate ARGUMENTS` to its end."""
    return subprocess.run(
        [str(binary()), *map(str, arguments)],
        input=stdin,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


_hashes = {}


def password_hash(password):
    """The argon2id hash that `fieldgate passwd` makes of it."""
    if password not in _hashes:
        made = command("passwd", stdin=password + "\n")
        assert made.returncode == 0, made.stderr
        found = re.search(r"\$argon2id\$\S+", made.stdout)
        assert found, f"no hash in {made.stdout!r} {made.stderr!r}"
        _hashes[password] = found.group(0)
    return _hashes[password]


OPEN_BROKER = """
[broker]
[[broker.listener]]
bind = "127.0.0.1:{port}"
[broker.anonymous]
subscribe = ["#", "$SYS/#"]
publish = ["#"]
"""
"""Everybody may do everything; for the tests that are not about access."""


class Gateway:
    """`config` is the text after `[gateway]`; `mapping` the text of its one mapping file."""

    def __init__(self, directory, config=None, mapping="", *, name="gw", files=None):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "mappings").mkdir(exist_ok=True)
        self.name = name
        self.port = free_port()
        self.process = None
        self.runs = []
        self.secrets = []
        self.write_config(OPEN_BROKER if config is None else config)
        self.write_mapping(mapping)
        for path, text in (files or {}).items():
            target = self.directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)

    @property
    def file(self):
        return self.directory / "fieldgate.toml"

    @property
    def mapping_file(self):
        return self.directory / "mappings" / "main.toml"

    def write_config(self, text):
        head = f'[gateway]\nid = "{self.name}"\nmappings = ["mappings/*.toml"]\nstate_dir = "state"\n'
        self.file.write_text(head + text.replace("{port}", str(self.port)))

    def write_mapping(self, text):
        self.mapping_file.write_text(text)

    def start(self, *, env=None, timeout=PATIENCE):
        """Starts it and waits for its `ready` line."""
        self.launch(env=env)
        self.process.wait_for_line("the line `ready`", lambda line: re.search(r"\bready\b", line), timeout)
        return self

    def launch(self, *, env=None):
        """Starts it and waits for nothing."""
        assert self.process is None or not self.process.alive, "it runs already"
        self.process = Process([binary(), "run", "-c", self.file], cwd=self.directory, env=env)
        self.runs.append(self.process)
        return self.process

    def reload(self):
        self.process.signal(signal.SIGHUP)

    def terminate(self, timeout=PATIENCE):
        return self.process.terminate(timeout)

    def kill(self):
        """SIGKILL: as a crash."""
        return self.process.kill()

    def check(self, *arguments):
        return command("check", "-c", self.file, *arguments, cwd=self.directory)

    def close(self):
        """Ends what still runs, and holds what is true of every run: no panic, no secret in the log."""
        for run in self.runs:
            if run.alive:
                run.terminate() if run is self.process else run.kill()
        for run in self.runs:
            assert "panicked at" not in run.output, f"it panicked:\n{run.output}"
            for secret in self.secrets:
                assert secret not in run.output, "a password stands in the log"


def http(port, path):
    """Status code and text of `http://127.0.0.1:PORT/PATH`."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def http_json(port, path):
    status, text = http(port, path)
    assert status == 200, f"{path}: {status} {text}"
    return json.loads(text)


__all__ = ["Gateway", "OPEN_BROKER", "binary", "command", "http", "http_json", "password_hash", "until"]
