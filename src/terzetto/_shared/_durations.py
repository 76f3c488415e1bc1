"""Durations as Go writes and reads them: ``1h0m0s``, ``1m30.5s``, ``500ms``.

Tickers keep their interval in this form. Durations are whole nanoseconds in 64
signed bits, as in Go. Pure.
"""

import re

_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # micro sign, which Go writes
    "\u03bcs": 1_000,  # Greek mu, which Go reads too
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_LIMIT = 1 << 63
_TERM = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]+)")
_SHORTEST_SECOND = 1_000_000_000


def _with_fraction(amount: int, unit: int, name: str) -> str:
    """Return `amount` nanoseconds in units of `unit`, without trailing zeros."""
    whole, rest = divmod(amount, unit)
    digits = str(rest).rjust(len(str(unit)) - 1, "0").rstrip("0") if rest else ""
    return f"{whole}.{digits}{name}" if digits else f"{whole}{name}"


def format_duration(nanoseconds: int) -> str:
    """Return the text that Go gives a duration of that many nanoseconds."""
    sign = "-" if nanoseconds < 0 else ""
    amount = abs(nanoseconds)
    if amount == 0:
        return "0s"
    if amount < _SHORTEST_SECOND:
        name = "ns" if amount < _NANOSECONDS["us"] else "ms"
        if _NANOSECONDS["us"] <= amount < _NANOSECONDS["ms"]:
            name = "\u00b5s"
        return sign + _with_fraction(amount, _NANOSECONDS[name], name)
    minutes, below = divmod(amount, _NANOSECONDS["m"])
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return sign + text + _with_fraction(below, _SHORTEST_SECOND, "s")


def _fraction(digits: str) -> tuple[int, float]:
    """Return `digits` as a number and what to divide it by; digits past 63 bits are dropped."""
    number, scale = 0, 1.0
    for digit in digits:
        following = number * 10 + int(digit)
        if number > (_LIMIT - 1) // 10 or following > _LIMIT:
            break
        number, scale = following, scale * 10
    return number, scale


def parse_duration(text: str) -> int:
    """Return the nanoseconds that Go reads in `text`.

    A text is an optional sign and one or more numbers with a unit each, such as
    ``1h15m30.918s``; a bare ``0`` is fine.

    Raises:
        ValueError: it is not a duration, or longer than 63 bits of nanoseconds.
    """
    unsigned = text[1:] if text[:1] in {"-", "+"} else text
    if unsigned == "0":
        return 0
    total = position = 0
    while position < max(len(unsigned), 1):  # at least once: an empty text is no duration
        term = _TERM.match(unsigned, position)
        if term is None or not (term[1] or term[2]) or term[3] not in _NANOSECONDS:
            raise ValueError(f"{text!r} is not a duration such as 1m30s")
        unit = _NANOSECONDS[term[3]]
        amount = int(term[1] or "0") * unit
        if term[2]:
            number, scale = _fraction(term[2])
            amount += int(number * (unit / scale))
        total += amount
        if total > _LIMIT:
            raise ValueError(f"{text!r} is longer than a duration can be")
        position = term.end()
    if text[0] == "-":
        return -total
    if total == _LIMIT:
        raise ValueError(f"{text!r} is longer than a duration can be")
    return total
