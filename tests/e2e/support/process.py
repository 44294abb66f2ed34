"""A child process whose output is collected line by line, ended by its own process id."""

import os
import signal
import subprocess
import threading
import time

from .wait import PATIENCE, until


class Process:
    def __init__(self, command, *, cwd=None, env=None, stdin=subprocess.DEVNULL):
        self.command = [str(part) for part in command]
        self._child = subprocess.Popen(
            self.command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self.lines = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._child.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def pid(self):
        return self._child.pid

    @property
    def output(self):
        return "\n".join(self.lines)

    @property
    def alive(self):
        return self._child.poll() is None

    def wait_for_line(self, what, matches, timeout=PATIENCE):
        """The first line that `matches`; fails at once when the process ends without one."""

        def found():
            for line in list(self.lines):
                if matches(line):
                    return line
            if not self.alive:
                self._reader.join(2)
                for line in self.lines:
                    if matches(line):
                        return line
                raise AssertionError(
                    f"{self.command[0]} ended with {self._child.returncode} before {what}:\n{self.output}"
                )
            return None

        try:
            return until(what, found, timeout)
        except AssertionError as failure:
            raise AssertionError(f"{failure}\noutput:\n{self.output}") from None

    def signal(self, number):
        self._child.send_signal(number)

    def wait(self, timeout=PATIENCE):
        """The exit code."""
        try:
            code = self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.command[0]} still runs after {timeout} s:\n{self.output}") from None
        self._reader.join(2)
        return code

    def terminate(self, timeout=PATIENCE):
        """SIGTERM; the exit code and the seconds that it took."""
        begun = time.monotonic()
        if self.alive:
            self.signal(signal.SIGTERM)
        code = self.wait(timeout)
        return code, time.monotonic() - begun

    def kill(self):
        if self.alive:
            self._child.kill()
        return self.wait()
