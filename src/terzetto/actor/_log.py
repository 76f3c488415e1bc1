"""The observer that every root has: it writes lifecycle events to a logger."""

from collections.abc import Callable

from terzetto._shared._logging import Logger
from terzetto._shared._texts import describe_error
from terzetto.actor._events import (
    MAX_PLACES,
    Crashed,
    CutOff,
    DeadLetter,
    Escalated,
    Event,
    Missed,
    Restarted,
    Started,
    Stopped,
)


def log_to(logger: Logger) -> Callable[[Event], None]:
    """Return an observer that writes events to `logger`.

    Crashes and escalations are errors, with their traceback in `exc_info`;
    dead letters, hooks cut off and restarts are warnings, the rest is for
    debugging. Of the dead letters of one actor and reason only the first is a
    warning. An error that brings down one supervisor after the other is written
    with its traceback once.
    """
    seen: set[tuple[str, str]] = set()
    told: list[BaseException] = []

    def write(event: Event) -> None:
        match event:
            case Started(path=path):
                logger.debug("actor started", actor=path)
            case Restarted(path=path, restarts=restarts):
                logger.warning("actor restarted", actor=path, restarts=restarts)
            case Stopped(path=path, exit=exit_):
                logger.debug("actor stopped", actor=path, reason=exit_.reason.value)
            case Crashed():
                _write_crash(logger, event, told)
            case Escalated(path=path, child=child, why=why, error=error):
                logger.error(
                    "supervisor failed",
                    actor=path,
                    child=child,
                    why=why,
                    error=describe_error(error),
                )
            case CutOff(path=path, hook=hook):
                logger.warning("grace period over, hook cut off", actor=path, hook=hook)
            case DeadLetter(path=path, message=message, reason=reason, error=error):
                write_ = logger.warning if _is_new((path, reason), seen) else logger.debug
                fields = {} if error is None else {"error": describe_error(error)}
                write_("dead letter", actor=path, message=message.name, reason=reason, **fields)
            case Missed(count=count):
                logger.warning("events not logged, too many at once", count=count)

    return write


def _write_crash(logger: Logger, event: Crashed, told: list[BaseException]) -> None:
    """Write a crash; one whose error was written just before, as it came up, is for debugging."""
    text = describe_error(event.error)
    if told and told[0] is event.error:
        logger.debug("actor crashed", actor=event.path, error=text)
    else:
        told[:] = [event.error]
        logger.error("actor crashed", actor=event.path, error=text, exc_info=event.error)


def _is_new(key: tuple[str, str], seen: set[tuple[str, str]]) -> bool:
    """Say whether `key` is not in `seen`, and put it there while there is room."""
    if key in seen or len(seen) >= MAX_PLACES:
        return False
    seen.add(key)
    return True
