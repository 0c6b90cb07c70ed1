"""The main program's log, on standard error: an event a line, for people or as JSON. No key is ever in it."""

from __future__ import annotations

import json
import logging
import time

from perdure.service.site.config import LogFormat


class JsonLines(logging.Formatter):
    """One object a line: `time` (UTC), `level`, `message`, `event` where it is one, `traceback` of a defect."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        value: dict[str, object] = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        event = getattr(record, "event", None)
        if event is not None:
            value["event"] = event.to_json()
        if record.exc_info:
            value["traceback"] = self.formatException(record.exc_info)
        return json.dumps(value)


def to_stderr(form: LogFormat = LogFormat.HUMAN) -> None:
    """Begin to log, in that form. Must be called once."""
    handler = logging.StreamHandler()
    if form is LogFormat.JSON:
        formatter: logging.Formatter = JsonLines()
        formatter.converter = time.gmtime
    else:
        formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.INFO)
