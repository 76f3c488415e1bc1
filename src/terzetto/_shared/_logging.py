"""What components log to: anything with structlog's methods, by default the standard library.

A component takes `logger=`, a `Logger`; without one it logs to
``logging.getLogger("terzetto.<room>")`` through an adapter that writes the same
keyword fields behind the text. Pure; used by every room that has a logger.
"""

import logging
from typing import Any, Protocol, Self

import attrs


class Logger(Protocol):
    """The part of structlog's bound loggers that components use."""

    def bind(self, **fields: Any) -> Self:  # noqa: ANN401 - fields are whatever the event has
        """Return a logger that adds `fields` to all that it writes."""
        ...

    def debug(self, event: str, /, **fields: Any) -> Any:  # noqa: ANN401 - as in structlog
        """Write what only a developer wants to know."""
        ...

    def info(self, event: str, /, **fields: Any) -> Any:  # noqa: ANN401 - as in structlog
        """Write what an operator may want to know."""
        ...

    def warning(self, event: str, /, **fields: Any) -> Any:  # noqa: ANN401 - as in structlog
        """Write what went wrong and was dealt with."""
        ...

    def error(self, event: str, /, **fields: Any) -> Any:  # noqa: ANN401 - as in structlog
        """Write what went wrong and needs somebody."""
        ...


@attrs.frozen
class StandardLogger:
    """Structlog's methods over a logger of the standard library.

    Fields follow the text as ``name=value``, and are in the record's
    ``terzetto`` attribute as a dict, for handlers that want them apart. A field
    ``exc_info`` is an error whose traceback is written, as in both libraries.
    """

    target: logging.Logger
    fields: dict[str, Any] = attrs.field(factory=dict[str, Any])

    def bind(self, **fields: Any) -> "StandardLogger":  # noqa: ANN401 - see `Logger`
        """Return a logger that adds `fields` to all that it writes."""
        return StandardLogger(self.target, {**self.fields, **fields})

    def debug(self, event: str, /, **fields: Any) -> None:  # noqa: ANN401 - see `Logger`
        """Write at level DEBUG."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: Any) -> None:  # noqa: ANN401 - see `Logger`
        """Write at level INFO."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:  # noqa: ANN401 - see `Logger`
        """Write at level WARNING."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: Any) -> None:  # noqa: ANN401 - see `Logger`
        """Write at level ERROR."""
        self._write(logging.ERROR, event, fields)

    def _write(self, level: int, event: str, fields: dict[str, Any]) -> None:
        if self.target.isEnabledFor(level):
            merged = {**self.fields, **fields}
            error = merged.pop("exc_info", None)
            text = " ".join([event, *(f"{name}={value!r}" for name, value in merged.items())])
            self.target.log(
                level, "%s", text, exc_info=error, extra={"terzetto": merged}, stacklevel=3
            )


def default_logger(room: str) -> Logger:
    """Return the logger of a room (such as ``"streaming"``) in the standard library's tree."""
    return StandardLogger(logging.getLogger(f"terzetto.{room}"))
