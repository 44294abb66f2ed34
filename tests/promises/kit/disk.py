"""A gateway whose state stands on a disk of its own, in a mount namespace that goes with the process."""

import os
import subprocess
from pathlib import Path

from support.gateway import Gateway, binary
from support.process import Process

SMALL = 'mount -t tmpfs -o size=3m tmpfs "$0"'


class SmallDisk(Gateway):
    """`mount`: what makes the disk on `$0`, a folder; 3 MB of memory unless told."""

    mount = SMALL

    @classmethod
    def of(cls, gateway, mount):
        """The same gateway, from now on with that disk."""
        made = cls.__new__(cls)
        made.__dict__.update(gateway.__dict__, mount=mount, runs=[])
        return made

    def launch(self, *, env=None):
        state = self.directory / "state"
        state.mkdir(exist_ok=True)
        command = ["unshare", "-m", "sh", "-c", self.mount + ' && exec "$@"', state, binary(), "run", "-c", self.file]
        self.process = Process(command, cwd=self.directory, env=env)
        self.runs.append(self.process)
        return self.process

    @property
    def state(self):
        return Path(f"/proc/{self.process.pid}/root") / str(self.directory / "state").lstrip("/")

    def fill(self):
        with open(self.state / "filler", "ab", buffering=0) as filler:
            for size in (65536, 4096, 1):
                try:
                    while True:
                        filler.write(b"x" * size)
                except OSError:
                    pass

    def empty(self):
        (self.state / "filler").unlink()


def may_mount():
    if os.geteuid() != 0:
        return False
    tried = subprocess.run(["unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /mnt"], capture_output=True, check=False)
    return tried.returncode == 0
