"""Writes a Record from inside the trainer's process, event by event."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np

from harness.base.files import replacing
from harness.record import layout, writer


class Writer:
    """The probe's end of a Record's folder.

    Events come from the trainer's main thread and from its loader's threads; each is one line,
    flushed at once, so that a killed run can be read up to its last event.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._stream = (directory / layout.STEPS).open("w", buffering=1)
        self._lock = threading.Lock()

    def event(self, event: str, **fields: Any) -> None:
        """Append one event."""
        line = json.dumps(writer.encode({"event": event, **fields}), allow_nan=False)
        with self._lock:
            self._stream.write(line + "\n")

    def parameters(self, parameters: list[dict[str, Any]]) -> None:
        """Write parameters.json anew."""
        writer.write_json(
            self.directory / layout.PARAMETERS,
            {"schema": layout.SCHEMA, "parameters": parameters},
        )

    def arrays(self, name: str, arrays: dict[str, Any]) -> None:
        """Write an .npz file of numpy arrays."""
        with replacing(self.directory / name) as stream:
            np.savez(stream, **arrays)

    def observed(self, observed: dict[str, Any]) -> None:
        """Write observed.json anew; the launcher makes it part of the manifest."""
        writer.write_json(self.directory / layout.OBSERVED, observed)

    def loaded(self, loaded: dict[str, Any]) -> None:
        """Write loaded.json: what comes of loading what was saved."""
        content = {"schema": layout.SCHEMA, "loaded": loaded}
        writer.write_json(self.directory / layout.LOADED, content)

    def modules(self, content: dict[str, Any]) -> None:
        """Write modules.json: which modules a step executes."""
        writer.write_json(self.directory / layout.MODULES, content)

    def module(self, name: str, proto: bytes) -> None:
        """Write one of those modules, a serialized HloModuleProto."""
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as stream:
            stream.write(proto)
