"""Real programs on free ports: started, waited for, stopped, with their output kept."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 40


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def scratch_folder() -> contextlib.AbstractContextManager[Path]:
    """A folder that goes away with its user. Not pytest's tmp_path: that one is kept, and image stores are large."""

    @contextlib.contextmanager
    def folder():
        path = Path(tempfile.mkdtemp(prefix="outport-real-"))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    return folder()


def run(*command, timeout_s: float = 600, **options) -> str:
    """Runs a program to its end and returns its output; raises with all that it said when it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout_s, **options)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(words)}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


class Process:
    """A program that runs in the background, its output in `log`."""

    def __init__(self, name: str, command: list, log: Path, **options):
        self.name = name
        self.command = [str(word) for word in command]
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self.process = subprocess.Popen(self.command, stdout=output, stderr=subprocess.STDOUT, **options)

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for(self, ready, timeout_s: float = START_TIMEOUT_S) -> None:
        """Waits until `ready()` is true. Refused connections count as not yet."""
        deadline = time.monotonic() + timeout_s
        while True:
            if self.process.poll() is not None:
                raise AssertionError(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}")
            with contextlib.suppress(OSError):
                if ready():
                    return
            if time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"{self.name} was not ready within {timeout_s} s:\n{self.tail()}")
            time.sleep(0.005)

    def stop(self, sign: int = signal.SIGTERM) -> int:
        """Ends it, first kindly, and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sign)
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def resident_bytes(self) -> int:
        return self._memory_bytes("VmRSS")

    def forget_peak(self) -> None:
        """From now on `peak_bytes` counts anew (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        return self._memory_bytes("VmHWM")

    def _memory_bytes(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"{self.name} has no memory: it ended")

    def processor_seconds(self) -> float:
        """What it has used so far, in user mode and in the kernel."""
        return processor_seconds_of(self.pid)


def processor_seconds_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
