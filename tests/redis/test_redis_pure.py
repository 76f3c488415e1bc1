"""The decisions that need no server: URLs, roads of commands, waits between attempts."""

import contextlib
import math
import traceback
from random import Random
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terzetto.errors import InvalidOptionError, InvalidPayloadError, TerzettoError
from terzetto.redis import (
    Arg,
    AuthError,
    ConnectError,
    CrossSlotError,
    LinkClosedError,
    LinkError,
    LinkLostError,
    ReplyError,
    Script,
    UrlError,
    WrongLinkError,
)
from terzetto.redis._backoff import Backoff
from terzetto.redis._commands import Road, blocking_time, check_dedicated, check_unit, road_of
from terzetto.redis._url import Endpoint, Options, parse_url, split_url

# Errors


@pytest.mark.parametrize(
    "error",
    [
        LinkError("x"),
        ConnectError("x"),
        AuthError("x"),
        LinkLostError("x", may_have_run=True),
        LinkClosedError("x"),
        WrongLinkError("x"),
        ReplyError("x"),
        CrossSlotError("x"),
    ],
)
def test_the_repr_of_an_error_has_its_text(error: Exception) -> None:
    assert repr(error) == f"{type(error).__name__}('x')"
    assert isinstance(error, TerzettoError)


# URLs

PASSWORD = "p"  # noqa: S105 - it guards nothing


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://", Options()),
        ("redis://h", Options(endpoint=Endpoint(host="h"))),
        ("redis://h:7000/3", Options(endpoint=Endpoint(host="h", port=7000), db=3)),
        ("redis://[::1]:7000", Options(endpoint=Endpoint(host="::1", port=7000))),
        ("redis://:%70@h", Options(endpoint=Endpoint(host="h"), password=PASSWORD)),
        ("redis://u:p@h", Options(endpoint=Endpoint(host="h"), username="u", password=PASSWORD)),
        ("redis://h?db=2", Options(endpoint=Endpoint(host="h"), db=2)),
        ("unix:///a%20b?db=1", Options(endpoint=Endpoint(path="/a b"), db=1)),
        ("unix://u:p@/a", Options(endpoint=Endpoint(path="/a"), username="u", password=PASSWORD)),
        (
            "redis://h?client_name=x&max_backoff=1.5",
            Options(endpoint=Endpoint(host="h"), client_name="x", max_backoff=1.5),
        ),
    ],
)
def test_a_url_says_where_and_how(url: str, options: Options) -> None:
    assert parse_url(url) == options


def test_options_win_over_the_url() -> None:
    assert parse_url("redis://h/3?client_name=a", db=4, client_name="b", password=None) == Options(
        endpoint=Endpoint(host="h"), db=4, client_name="b"
    )


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://h", "scheme is 'http'"),
        ("localhost:6379", "scheme is 'localhost'"),
        ("", "scheme is ''"),
        ("redis://h/x", "database is 'x'"),
        ("redis://h:99999", "port"),
        ("redis://h?db=-1", "may not be negative"),
        ("redis://h?dbb=1", "unknown option 'dbb'"),
        ("redis://h?connect_timeout=soon", "connect_timeout is 'soon'"),
        ("redis://h?connect_timeout=0", "greater than 0"),
        ("redis://h?max_in_flight=0", "1 or more"),
        ("unix://", "needs a path"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused(url: str, text: str) -> None:
    with pytest.raises(UrlError, match=text) as caught:
        parse_url(url)
    assert isinstance(caught.value, InvalidOptionError)
    assert isinstance(caught.value, TerzettoError)


@pytest.mark.parametrize(
    "url",
    ["redis://u:hush@h:99999", "redis://u:hush@h/x", "redis://u:hush@[::1", "http://u:hush@h"],
)
def test_no_error_of_a_url_tells_its_password(url: str) -> None:
    with pytest.raises(UrlError) as caught:
        parse_url(url)
    assert "hush" not in "".join(traceback.format_exception(caught.value))


def test_neither_repr_nor_url_tells_a_password() -> None:
    options = parse_url("redis://u:hush@h/1")
    assert "hush" not in repr(options)
    assert options.url == "redis://h:6379/1"


@given(st.text(max_size=50))
def test_any_text_is_a_url_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(UrlError):
        split_url(text)


# Roads


@pytest.mark.parametrize(
    ("args", "road"),
    [
        (("GET", "k"), Road.READ),
        (("get", "k"), Road.READ),
        ((b"GET", "k"), Road.READ),
        (("SET", "k", "v"), Road.WRITE),
        (("INCR", "k"), Road.WRITE),
        (("NO.SUCH", "k"), Road.WRITE),
        (("XREAD", "STREAMS", "BLOCK", "0"), Road.READ),
        (("XREAD", "COUNT", "1", "BLOCK", "0", "STREAMS", "s", "0"), Road.BLOCKS),
        (("XREADGROUP", "GROUP", "g", "c", "BLOCK", "1", "STREAMS", "s", ">"), Road.BLOCKS),
        (("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">"), Road.WRITE),
        (("XREADGROUP", "GROUP", "streams", "c", "BLOCK", 1, "STREAMS", "s", ">"), Road.BLOCKS),
        (("XREADGROUP", "GROUP", "g", "streams", "BLOCK", 1, "STREAMS", "s", ">"), Road.BLOCKS),
        (("XREADGROUP", "GROUP", "g", "c streams", "BLOCK", 1, "STREAMS", "s", ">"), Road.BLOCKS),
        (("XREADGROUP", "GROUP", "block", "block", "STREAMS", "s", ">"), Road.WRITE),
        (("XREADGROUP", b"block", 1, "GROUP", "g", "c", "STREAMS", "s", ">"), Road.BLOCKS),
        (("XREAD", *("COUNT", 1) * 9, "BLOCK", 0, "STREAMS", "s", "0"), Road.BLOCKS),
        (("SCRIPT", "LOAD", "return 1"), Road.WRITE),
        (("BLPOP", "k", 0), Road.BLOCKS),
        (("CLIENT", "GETNAME"), Road.WRITE),
        (("CLIENT",), Road.WRITE),
    ],
)
def test_the_road_of_a_command(args: tuple[Arg, ...], road: Road) -> None:
    assert road_of(args) is road
    assert road_of(args) is road  # from the cache, too


@pytest.mark.parametrize(
    "args",
    [
        ("SUBSCRIBE", "c"),
        (b"subscribe", "c"),
        ("Monitor",),
        ("SELECT", 1),
        ("MULTI",),
        ("WATCH", "k"),
        ("CLIENT", "REPLY", "OFF"),
        ("client reply", "OFF"),
        ("CLIENT", "SETNAME", "x"),
        ("client setname", "x"),
        (b"CLIENT", b"no-evict", "on"),
        ("CLIENT", "NO-TOUCH", "ON"),
        ("CLIENT TRACKING", "ON"),
        ("CLIENT", "CACHING", "YES"),
        ("HELLO", 2),
        ("RESET",),
        ("QUIT",),
        ("WAIT", 1, 0),
        ("SCRIPT", "DEBUG", "YES"),
        ("script debug", "SYNC"),
        ("CLIENT", cast("Arg", bytearray(b"REPLY")), "OFF"),
        ("CLIENT", cast("Arg", memoryview(b"no-touch")), "ON"),
    ],
)
def test_what_would_disturb_others_is_refused(args: tuple[Arg, ...]) -> None:
    with pytest.raises(WrongLinkError):
        road_of(args)


@pytest.mark.parametrize(
    "args",
    [
        ("SUBSCRIBE", "c"),
        ("MONITOR",),
        ("CLIENT", "REPLY", "OFF"),
        ("CLIENT", cast("Arg", bytearray(b"REPLY")), "OFF"),
        ("SCRIPT", "DEBUG", "YES"),
    ],
)
def test_what_no_link_can_carry_is_refused(args: tuple[Arg, ...]) -> None:
    with pytest.raises(WrongLinkError):
        check_dedicated(args)


def test_a_link_of_ones_own_may_hold_state() -> None:
    for args in [("MULTI",), ("WATCH", "k"), ("SELECT", 1), ("BLPOP", "k", 1), ("WAIT", 1, 10)]:
        check_dedicated(args)
    for args in [("CLIENT", "SETNAME", "x"), ("CLIENT", "NO-EVICT", "ON")]:
        check_dedicated(args)


def test_a_unit_leaves_the_link_as_it_was() -> None:
    check_unit([("MULTI",), ("SET", "k", "v"), ("EXEC",), ("GET", "k")])
    check_unit([("MULTI",), ("BLPOP", "k", 0), ("EXEC",)])  # it does not wait there
    units: list[list[tuple[Arg, ...]]] = [
        [("MULTI",), ("SET", "k", "v")],
        [("EXEC",)],
        [("MULTI",), ("MULTI",), ("EXEC",)],
        [("BLPOP", "k", 0)],
        [("SUBSCRIBE", "c")],
        [("MULTI",), ("DISCARD", "x")],
        [("MULTI",), ("EXEC", "x")],
        [("MULTI",), ("DISCARD x",)],
        [("MULTI",), ("d\u0131scard",)],  # whose capitals are DISCARD's, for Python
        [("MULTI", "x"), ("EXEC",)],
    ]
    for unit in units:
        with pytest.raises(WrongLinkError):
            check_unit(unit)
    with pytest.raises(InvalidPayloadError):
        check_unit([("GET", "k"), ()])


@pytest.mark.parametrize(
    ("args", "seconds"),
    [
        (("GET", "k"), 0),
        (("XREAD", "BLOCK", "1500", "STREAMS", "s", "0"), 1.5),
        (("XREAD", "block", 0, "STREAMS", "s", "0"), math.inf),
        (("XREAD", "BLOCK"), 0),
        (("XREADGROUP", "GROUP", "block", "9", "BLOCK", 500, "STREAMS", "s", ">"), 0.5),
        (("XREADGROUP", "GROUP", "streams", "c", "BLOCK", 500, "STREAMS", "s", ">"), 0.5),
        (("BLPOP", "a", "b", "2.5"), 2.5),
        (("BLPOP", "a", 0), math.inf),
        (("BLMPOP", 3, 1, "k", "LEFT"), 3),
        (("WAIT", 1, 250), 0.25),
        (("BLPOP", "a", "soon"), 0),
        (("BLPOP",), 0),
    ],
)
def test_how_long_a_command_may_wait(args: tuple[Arg, ...], seconds: float) -> None:
    assert blocking_time(args) == seconds


# Waits between attempts


@given(st.integers(0, 2**32), st.floats(0.01, 100), st.integers(0, 5000))
def test_waits_grow_to_the_ceiling_and_never_beyond(
    seed: int, ceiling: float, attempts: int
) -> None:
    backoff = Backoff(ceiling=ceiling, random=Random(seed), attempts=attempts)  # noqa: S311 - no secret
    delay = backoff.next_delay()
    step = min(ceiling, 0.02 * 2.0 ** min(attempts, 30))
    assert step / 2 <= delay <= step
    assert backoff.attempts == attempts + 1


# Scripts


def test_a_script_is_found_beside_its_package() -> None:
    script = Script("name", "return 1")
    assert script.sha == "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"
    with pytest.raises(FileNotFoundError):
        Script.load("terzetto.redis", "lua/none.lua")
