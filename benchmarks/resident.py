"""The resident memory of a process: what is its own, and what are pages of files that the system may take back."""

from __future__ import annotations

import threading
from pathlib import Path


def resident() -> dict[str, float]:
    """RssAnon and RssFile of this process in MiB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")}


class Peak(threading.Thread):
    """The highest resident memory between start and :meth:`stop`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest = resident()
        self._stop_asked = threading.Event()

    def run(self) -> None:
        while not self._stop_asked.wait(0.02):
            self.highest = {name: max(value, self.highest[name]) for name, value in resident().items()}

    def stop(self) -> dict[str, float]:
        self._stop_asked.set()
        self.join()
        return self.highest
