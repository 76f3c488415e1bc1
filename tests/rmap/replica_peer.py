"""A replica and the server that it copies, moved by hand; for the tests of the pure replica."""

import attrs

from terzetto.errors import InvalidPayloadError
from terzetto.rmap._message import Message, Op
from terzetto.rmap._replica import Change, Replica


def no_malformed(data: bytes, error: InvalidPayloadError) -> None:
    raise AssertionError(data) from error


@attrs.define
class Peer:
    """A replica, with what it told."""

    heard: list[tuple[Change, str | None]] = attrs.field(factory=list)
    malformed: list[bytes] = attrs.field(factory=list)
    replica: Replica[bytes] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.replica = Replica(
            decode=self.decode,
            on_change=lambda change, key: self.heard.append((change, key)),
            on_malformed=lambda data, _: self.malformed.append(data),
        )

    def needs(self) -> bool:
        return self.replica.needs_snapshot

    @staticmethod
    def decode(data: bytes) -> bytes:
        if data == b"bad":
            raise InvalidPayloadError("bad")
        return data

    def snapshot(self, revision: int, kind: str = "set", **values: str) -> None:
        fields = {b"=rev": b"%d" % revision, b"=kind": kind.encode()}
        fields |= {key.encode(): value.encode() for key, value in values.items()}
        self.replica.apply_snapshot(self.replica.begin_snapshot(), fields)

    def set(self, revision: int, key: str, value: str) -> None:
        self.replica.receive(
            Message(op=Op.SET, key=key.encode(), value=value.encode(), revision=revision).encode()
        )

    def delete(self, revision: int, key: str) -> None:
        self.replica.receive(Message(op=Op.DELETE, key=key.encode(), revision=revision).encode())

    def reset(self, revision: int, op: Op = Op.RESET) -> None:
        self.replica.receive(Message(op=op, revision=revision).encode())
