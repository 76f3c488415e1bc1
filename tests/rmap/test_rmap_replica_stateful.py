"""A model of a server shows a pure replica every sign that it is wrong, in every order."""

from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from terzetto.rmap._message import Message, Op
from tests.rmap.replica_peer import Peer


def nothing() -> None:
    """Do nothing: nobody waits for what was lost."""


class ReplicaMachine(RuleBasedStateMachine):
    """One server and one replica; messages travel slowly, get lost, and the hash is flushed.

    What comes by each of the two connections keeps its order: messages and what is asked
    for in their place (`channel`), replies to sets and snapshots by the other road (`link`).
    A wait that ends before the copy has the state it is for is an error.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peer = Peer()
        self.content: dict[bytes, bytes] = {}
        self.revision = 0
        self.kind = b"set"
        self.channel: list[tuple[Callable[[], None], Callable[[], None]]] = []
        self.link: list[Callable[[], None]] = []
        self.waits: list[Callable[[], bool]] = []
        self.states = [self.visible()]
        self.subscribed = False
        self.flushed = self.lost = False
        self.stale = 0  # messages that are under way from before the last flush
        self.may_mix = False

    def visible(self) -> dict[str, bytes]:
        return {key.decode(): value for key, value in self.content.items()}

    def commit(self, op: Op, key: bytes = b"", value: bytes = b"") -> None:
        self.revision += 1
        self.kind = op.value
        if self.subscribed:
            data = Message(op=op, key=key, value=value, revision=self.revision).encode()
            self.channel.append((lambda: self.peer.replica.receive(data), nothing))
        self.states.append(self.visible())

    @rule(key=st.sampled_from([b"a", b"b", b"c"]), value=st.binary(max_size=2))
    def set(self, key: bytes, value: bytes) -> None:
        self.content[key] = value
        self.commit(Op.SET, key, value)

    @rule(key=st.sampled_from([b"a", b"b", b"c"]))
    def delete(self, key: bytes) -> None:
        if self.content.pop(key, None) is not None:
            self.commit(Op.DELETE, key)

    @rule(op=st.sampled_from([Op.RESET, Op.DESTROY]))
    def reset(self, op: Op) -> None:
        self.content.clear()
        self.commit(op)

    # All messages of a new epoch lost without a sign, up to the very revision where ours
    # stands, is beyond any replica; so one subscription sees a flush or a loss.
    @precondition(lambda self: not self.lost)
    @rule()
    def flush(self) -> None:
        self.flushed = True
        self.stale = len(self.channel)
        self.content.clear()
        self.revision = 0
        self.kind = b""
        self.states.append({})

    @rule()
    def subscribe(self) -> None:
        lost, self.channel = self.channel, []
        self.stale = 0
        self.subscribed = True
        self.flushed = self.lost = False
        self.peer.replica.gap()
        for _, lose in lost:
            lose()

    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        for _ in range(min(count, len(self.channel))):
            self.stale = max(0, self.stale - 1)
            deliver, _ = self.channel.pop(0)
            deliver()

    @precondition(lambda self: self.link)
    @rule(count=st.integers(1, 5))
    def reply(self, count: int) -> None:
        for _ in range(min(count, len(self.link))):
            self.link.pop(0)()

    @precondition(lambda self: self.channel and not self.flushed)
    @rule()
    def lose(self) -> None:
        self.lost = True
        _, lose = self.channel.pop(0)
        lose()

    def fields(self) -> dict[bytes, bytes]:
        fields = dict(self.content)
        if self.revision:
            fields |= {b"=rev": b"%d" % self.revision, b"=kind": self.kind}
        return fields

    @precondition(lambda self: self.subscribed)
    @rule()
    def read_snapshot(self) -> None:
        # Read by another road it may be of the new epoch, and a message from before the flush
        # then look like its successor: what is shown may never have been, until the next sign.
        number, fields, may_mix = self.peer.replica.begin_snapshot(), self.fields(), self.stale > 0
        self.link.append(lambda: self.apply(number, fields, may_mix=may_mix))

    def apply(self, number: int, fields: dict[bytes, bytes], *, may_mix: bool) -> None:
        before = self.peer.replica.snapshots_applied
        self.may_mix |= may_mix
        self.peer.replica.apply_snapshot(number, fields)
        if self.peer.replica.snapshots_applied > before:
            self.may_mix = may_mix

    def apply_in_order(self, number: int, fields: dict[bytes, bytes]) -> None:
        before = self.peer.replica.snapshots_applied
        self.peer.replica.apply_snapshot(number, fields, in_order=True)
        if self.peer.replica.snapshots_applied > before:
            self.may_mix = False

    @precondition(lambda self: self.subscribed)
    @rule()
    def ask_for_snapshot_in_order(self) -> None:
        number, fields = self.peer.replica.begin_snapshot(), self.fields()
        self.channel.append((lambda: self.apply_in_order(number, fields), nothing))

    def wait(self) -> Callable[[], None]:
        """Return what ends a wait for the state of the server as it is now, if the copy has it."""
        released: list[None] = []
        since = len(self.states) - 1

        def release() -> None:
            assert self.may_mix or self.peer.replica.values in self.states[since:]
            released.append(None)

        self.waits.append(lambda: bool(released))
        return release

    @precondition(lambda self: self.peer.replica.snapshots_applied)
    @rule(key=st.sampled_from([b"a", b"b"]), value=st.binary(max_size=2))
    def set_and_wait(self, key: bytes, value: bytes) -> None:
        expected = self.peer.replica.expect_set(key, value)
        self.set(key, value)
        revision, release = self.revision, self.wait()

        def take() -> None:
            if self.peer.replica.wait_for_set(expected, revision, release):
                release()

        self.link.append(take)

    @precondition(lambda self: self.subscribed)
    @rule()
    def sync(self) -> None:
        revision, release = self.revision, self.wait()

        def take() -> None:
            if self.peer.replica.check_state(revision):
                release()
            else:
                self.peer.replica.wait_for_snapshot(release)

        self.channel.append((take, lambda: self.peer.replica.wait_for_snapshot(release)))

    @rule()
    def poll(self) -> None:
        if not self.peer.replica.check_revision(self.revision, self.peer.replica.position):
            self.peer.replica.request_snapshot()

    @invariant()
    def shows_only_states_that_were(self) -> None:
        assert self.may_mix or self.peer.replica.values in [{}, *self.states]

    def teardown(self) -> None:
        if not self.subscribed:
            self.subscribe()
        self.deliver(len(self.channel) or 1)
        self.reply(len(self.link) or 1)
        self.poll()
        rounds = 0
        while self.peer.needs():
            self.read_snapshot()
            self.reply(1)
            rounds += 1
            assert rounds < 5
        assert self.peer.replica.values == self.visible()
        assert self.peer.replica.revision == self.revision
        assert all(is_released() for is_released in self.waits)


TestReplicaMachine = ReplicaMachine.TestCase
TestReplicaMachine.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
