"""How trace context travels: in a task's headers, from the one who enqueues to the one who runs.

Nothing here knows a tracing library. W3C's two headers are passed on by
themselves: what is enqueued while a task runs gets those of that task, unless it
has its own. An application that traces gives its client a function that writes
the headers of the present span, such as OpenTelemetry's ``propagate.inject``, and
its server a middleware that reads them.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

TRACE_HEADERS: Final = ("traceparent", "tracestate")

_running: ContextVar[Mapping[str, str]] = ContextVar("terzetto_trace")


def current_trace() -> dict[str, str]:
    """Return the trace headers of the task that is running here, if it has any."""
    headers = _running.get(None)
    if not headers:
        return {}
    return {name: headers[name] for name in TRACE_HEADERS if name in headers}


def follow_trace(headers: Mapping[str, str]) -> None:
    """Let all that is enqueued in this task's context belong to the trace of `headers`."""
    _running.set(headers)


@contextmanager
def tracing(headers: Mapping[str, str]) -> Generator[None]:
    """Let what is enqueued in a block belong to the trace that `headers` tell of."""
    token = _running.set(headers)
    try:
        yield
    finally:
        _running.reset(token)
