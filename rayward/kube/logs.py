"""The operator's log: one JSON object a line, as log collectors want it, or plain words on a terminal."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import TextIO

from rayward.kube.controller import run_id

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, tz=timezone.utc)
        entry = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        run = run_id.get()
        if run:
            entry["run"] = run
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class _Words(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")


def configure(level: str, encoder: str, stream: TextIO | None = None) -> None:
    """Send everything to ``stream`` (standard error); ``encoder`` is json, console, or auto."""
    stream = stream or sys.stderr
    plain = encoder == "console" or (encoder == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Words() if plain else _Json())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("rayward").setLevel(_LEVELS[level])
