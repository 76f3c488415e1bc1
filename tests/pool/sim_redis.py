"""As much of a Redis server as the scripts of a pool need, in memory, on a clock that is given.

The Lua is the real one: scripts run in a Lua 5.1 as in Redis. What is modelled
here are the commands that they call; `test_pool_sim_model.py` runs the same calls
here and on a real server, so that the model cannot drift.
"""

import json
import struct
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any, Final, TypeAlias, cast

import attrs
from redis.exceptions import ResponseError

Id: TypeAlias = tuple[int, int]
Value: TypeAlias = Any  # a reply: int, bytes, None, or a list of these

_LUPA: Final[Any] = import_module("lupa.lua51")  # its stubs are of another Lua
_SEPARATORS: Final = (",", ":")


def text_of(entry_id: Id) -> bytes:
    return b"%d-%d" % entry_id


def id_of(text: bytes) -> Id:
    ms, _, sequence = text.partition(b"-")
    return int(ms), int(sequence or 0)


@attrs.define
class Pending:
    """An entry that a consumer has not acknowledged."""

    consumer: bytes
    at_ms: float
    count: int = 1


@attrs.define
class Group:
    """A consumer group."""

    last: Id
    consumers: list[bytes] = attrs.field(factory=list[bytes])
    pending: dict[Id, Pending] = attrs.field(factory=dict[Id, Pending])


@attrs.define
class Entries:
    """A stream."""

    last: Id = (0, 0)
    entries: dict[Id, list[bytes]] = attrs.field(factory=dict[Id, "list[bytes]"])
    groups: dict[bytes, Group] = attrs.field(factory=dict[bytes, Group])

    def after(self, start: Id) -> list[tuple[Id, list[bytes]]]:
        return [(key, fields) for key, fields in self.entries.items() if key > start]


@attrs.define(eq=False)
class Keyspace:
    """The data of a server.

    `now_us` is its clock; `published` hears what is published, `added` of each stream
    that gets an entry.
    """

    now_us: Callable[[], int]
    published: Callable[[bytes, bytes], None] = lambda _channel, _data: None
    added: Callable[[bytes], None] = lambda _key: None
    hashes: dict[bytes, dict[bytes, bytes]] = attrs.field(factory=dict[bytes, "dict[bytes, bytes]"])
    strings: dict[bytes, tuple[bytes, float]] = attrs.field(
        factory=dict[bytes, "tuple[bytes, float]"]
    )
    streams: dict[bytes, Entries] = attrs.field(factory=dict[bytes, Entries])

    def run(self, source: str, keys: Iterable[bytes], args: Iterable[bytes]) -> Value:
        """Run a script."""
        return _run(self, source, [*keys], [*args])

    def call(self, name: bytes, *args: bytes) -> Value:
        """Run a command.

        Raises:
            ResponseError: as the server does.
        """
        return getattr(self, name.decode().lower())(*args)

    # Keys, strings, hashes; each method is the command of its name.

    def time(self) -> Value:
        now = self.now_us()
        return [b"%d" % (now // 1_000_000), b"%d" % (now % 1_000_000)]

    def exists(self, key: bytes) -> Value:
        return int(key in self.hashes or key in self.streams or self.get(key) is not None)

    def delete(self, *keys: bytes) -> Value:
        found = 0
        for key in keys:
            found += int(self.exists(key))
            self.hashes.pop(key, None)
            self.strings.pop(key, None)
            self.streams.pop(key, None)
        return found

    def get(self, key: bytes) -> Value:
        value, until = self.strings.get(key, (None, 0.0))
        return value if until > self.now_us() / 1000 else None

    def getdel(self, key: bytes) -> Value:
        value = self.get(key)
        self.delete(key)
        return value

    def set(self, key: bytes, value: bytes, _px: bytes, ms: bytes) -> Value:
        self.strings[key] = (value, self.now_us() / 1000 + int(ms))
        return True

    def hget(self, key: bytes, field: bytes) -> Value:
        return self.hashes.get(key, {}).get(field)

    def hmget(self, key: bytes, *fields: bytes) -> Value:
        return [self.hget(key, field) for field in fields]

    def hset(self, key: bytes, *pairs: bytes) -> Value:
        content = self.hashes.setdefault(key, {})
        before = len(content)
        content.update(zip(pairs[::2], pairs[1::2], strict=True))
        return len(content) - before

    def hdel(self, key: bytes, field: bytes) -> Value:
        content = self.hashes.get(key, {})
        if content.pop(field, None) is None:
            return 0
        if not content:
            del self.hashes[key]
        return 1

    def hexists(self, key: bytes, field: bytes) -> Value:
        return int(field in self.hashes.get(key, {}))

    def hgetall(self, key: bytes) -> Value:
        return [part for pair in self.hashes.get(key, {}).items() for part in pair]

    def hkeys(self, key: bytes) -> Value:
        return list(self.hashes.get(key, {}))

    def hincrby(self, key: bytes, field: bytes, delta: bytes) -> Value:
        value = int(self.hget(key, field) or 0) + int(delta)
        self.hset(key, field, b"%d" % value)
        return value

    def publish(self, channel: bytes, data: bytes) -> Value:
        self.published(channel, data)
        return 0

    # Streams

    def xadd(self, key: bytes, *args: bytes) -> Value:
        words, limit = list(args), 0
        if words[0] == b"NOMKSTREAM":
            words.pop(0)
            if key not in self.streams:
                return None
        if words[0] == b"MAXLEN":
            limit, words = int(words[2]), words[3:]
        stream = self.streams.setdefault(key, Entries())
        now_ms = self.now_us() // 1000
        stream.last = max((now_ms, 0), (stream.last[0], stream.last[1] + 1))
        stream.entries[stream.last] = words[1:]
        while limit and len(stream.entries) >= limit + 100:  # whole nodes of a hundred go
            for entry_id in list(stream.entries)[:100]:
                del stream.entries[entry_id]
        self.added(key)
        return text_of(stream.last)

    def xlen(self, key: bytes) -> Value:
        return len(self.streams[key].entries) if key in self.streams else 0

    def xdel(self, key: bytes, entry_id: bytes) -> Value:
        stream = self.streams.get(key)
        return int(stream is not None and stream.entries.pop(id_of(entry_id), None) is not None)

    def xack(self, key: bytes, name: bytes, entry_id: bytes) -> Value:
        stream = self.streams.get(key)
        group = None if stream is None else stream.groups.get(name)
        return int(group is not None and group.pending.pop(id_of(entry_id), None) is not None)

    def xpending(self, key: bytes, name: bytes, *args: bytes) -> Value:
        start, end, count, consumer = args
        now_ms = self.now_us() / 1000
        return [
            [text_of(entry_id), each.consumer, int(now_ms - each.at_ms), each.count]
            for entry_id, each in sorted(self._group(key, name).pending.items())
            if id_of(start) <= entry_id <= id_of(end) and each.consumer == consumer
        ][: int(count)]

    def xrange(self, key: bytes, start: bytes, _end: bytes, _count: bytes, count: bytes) -> Value:
        stream = self.streams.get(key, Entries())
        found = stream.after(id_of(start.removeprefix(b"(")))[: int(count)]
        return [[text_of(entry_id), fields] for entry_id, fields in found]

    def xgroup(self, what: bytes, key: bytes, name: bytes, *args: bytes) -> Value:
        if what in {b"CREATECONSUMER", b"DELCONSUMER"}:
            if key not in self.streams:
                raise ResponseError("The XGROUP subcommand requires the key to exist")
            change = self._join if what == b"CREATECONSUMER" else self._leave
            return change(self._group(key, name), args[0])
        stream = self.streams.setdefault(key, Entries())
        if name in stream.groups:
            raise ResponseError("BUSYGROUP Consumer Group name already exists")
        stream.groups[name] = Group(stream.last if args[0] == b"$" else id_of(args[0]))
        return True

    def xinfo(self, _what: bytes, key: bytes) -> Value:
        if key not in self.streams:
            raise ResponseError("ERR no such key")
        stream = self.streams[key]
        return [
            [
                *(b"name", name, b"pending", len(group.pending)),
                *(b"last-delivered-id", text_of(group.last)),
                *(b"lag", len(stream.after(group.last))),
            ]
            for name, group in stream.groups.items()
        ]

    def xreadgroup(self, *args: bytes) -> Value:
        _, name, consumer, _, count, _, key, _ = args
        group = self._group(key, name)
        self._join(group, consumer)
        found = self.streams[key].after(group.last)[: int(count)]
        for entry_id, _fields in found:
            group.last = entry_id
            group.pending[entry_id] = Pending(consumer, self.now_us() / 1000)
        if not found:
            return None
        return [[key, [[text_of(entry_id), fields] for entry_id, fields in found]]]

    def _group(self, key: bytes, name: bytes) -> Group:
        stream = self.streams.get(key)
        if stream is None or name not in stream.groups:
            raise ResponseError("NOGROUP No such key or consumer group")
        return stream.groups[name]

    def _leave(self, group: Group, consumer: bytes) -> int:
        if consumer in group.consumers:
            group.consumers.remove(consumer)
        held = [entry_id for entry_id, each in group.pending.items() if each.consumer == consumer]
        for entry_id in held:
            del group.pending[entry_id]
        return len(held)

    def _join(self, group: Group, consumer: bytes) -> int:
        if consumer in group.consumers:
            return 0
        group.consumers.append(consumer)
        return 1


# Lua


@attrs.define
class _Current:
    """Whose script is running; Lua has one set of globals."""

    keyspace: Keyspace | None = None


_current: Final = _Current()


def _to_word(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    number = cast("float", value)
    return b"%d" % int(number) if number == int(number) else repr(number).encode()


def _to_lua(value: Value) -> object:
    if value is None:
        return False
    if value is True:
        return _lua().table_from({b"ok": b"OK"})
    if isinstance(value, list):
        return _lua().table_from([_to_lua(item) for item in cast("list[object]", value)])
    return value


def _from_lua(value: Any) -> Value:  # noqa: ANN401 - whatever a script returns
    if value is None or value is False:
        return None
    if value is True:
        return 1
    if isinstance(value, float | int):
        return int(value)
    if _LUPA.lua_type(value) == "table":
        items: list[Value] = []
        while value[len(items) + 1] is not None:
            items.append(_from_lua(value[len(items) + 1]))
        return items
    return value


def _redis_call(name: bytes, *args: object) -> object:
    assert _current.keyspace is not None
    command = b"delete" if name == b"DEL" else name
    return _to_lua(_current.keyspace.call(command, *map(_to_word, args)))


def _redis_pcall(name: bytes, *args: object) -> object:
    try:
        return _redis_call(name, *args)
    except ResponseError as error:
        return _lua().table_from({b"err": str(error).encode()})


def _encode(value: Any) -> bytes:  # noqa: ANN401 - a string or a table of strings
    if isinstance(value, bytes):
        items: object = value.decode("utf-8", "surrogateescape")
    else:
        texts = [item.decode("utf-8", "surrogateescape") for item in value.values()]
        if not texts:
            return b"{}"
        items = texts
    text = json.dumps(items, ensure_ascii=False, separators=_SEPARATORS)
    text = text.replace("/", "\\/").replace("\x7f", "\\u007f")
    return text.encode("utf-8", "surrogateescape")


def _decode(text: bytes) -> object:
    value = json.loads(text.decode("utf-8", "surrogateescape"), strict=False)
    if not isinstance(value, list):
        return value if isinstance(value, int | float) else b""
    items = cast("list[object]", value)
    return _lua().table_from(
        [
            item.encode("utf-8", "surrogateescape") if isinstance(item, str) else item
            for item in items
        ]
    )


def _pack(layout: bytes, *values: object) -> bytes:
    parts: list[bytes] = []
    for number, value in enumerate(values):
        if isinstance(value, bytes):
            assert layout[1:].replace(b"i", b"i ").replace(b"c0", b"c ").split()[number] == b"c"
            parts.append(value)
        else:
            parts.append(struct.pack("<i", int(cast("float", value))))
    return b"".join(parts)


def _unpack(layout: bytes, data: bytes) -> tuple[object, ...]:
    values: list[object] = []
    position = 0
    for _ in range(layout.count(b"ic0")):
        (length,) = struct.unpack_from("<i", data, position)
        values.append(data[position + 4 : position + 4 + length])
        position += 4 + length
    return (*values, position + 1)


@lru_cache(1)
def _lua() -> Any:  # noqa: ANN401 - lupa has no types
    lua = _LUPA.LuaRuntime(encoding=None, unpack_returned_tuples=True)
    libraries: Mapping[bytes, Mapping[bytes, Callable[..., object]]] = {
        b"redis": {b"call": _redis_call, b"pcall": _redis_pcall},
        b"cjson": {b"encode": _encode, b"decode": _decode},
        b"struct": {b"pack": _pack, b"unpack": _unpack},
    }
    for name, functions in libraries.items():
        lua.globals()[name] = lua.table_from(functions)
    return lua


@lru_cache(100)
def _compile(source: str) -> Callable[[object, object], object]:
    script = f"return function(KEYS, ARGV)\n{source}\nend"
    return cast("Callable[[object, object], object]", _lua().execute(script.encode()))


def _run(keyspace: Keyspace, source: str, keys: list[bytes], args: list[bytes]) -> Value:
    outer, _current.keyspace = _current.keyspace, keyspace
    try:
        return _from_lua(_compile(source)(_lua().table_from(keys), _lua().table_from(args)))
    finally:
        _current.keyspace = outer
