"""The pure replica: each sign that it is wrong."""

from collections.abc import Callable

import pytest

from terzetto.rmap._message import Op
from terzetto.rmap._replica import Change, PendingSet
from tests.rmap.replica_peer import Peer


def joined(revision: int, **values: str) -> Peer:
    peer = Peer()
    peer.snapshot(revision, **values)
    assert not peer.needs()
    assert peer.heard == []
    return peer


def test_messages_are_applied_and_told_in_order() -> None:
    peer = joined(3, a="1")
    peer.set(4, "b", "2")
    peer.delete(5, "a")
    assert peer.replica.values == {"b": b"2"}
    peer.reset(6)
    assert peer.replica.values == {}
    peer.set(7, "c", "3")
    peer.reset(8, Op.DESTROY)
    assert peer.replica.values == {}
    assert peer.replica.revision == 8
    assert peer.heard == [
        (Change.SET, "b"),
        (Change.DELETE, "a"),
        (Change.RESET, None),
        (Change.SET, "c"),
        (Change.RESET, None),
    ]


def test_an_old_message_does_not_overwrite_a_newer_snapshot() -> None:
    peer = joined(5, a="new")
    peer.set(4, "a", "old")
    peer.set(5, "a", "new")
    assert peer.replica.values == {"a": b"new"}
    assert peer.heard == []
    assert not peer.needs()


def test_messages_during_a_snapshot_are_applied_on_top() -> None:
    peer = joined(1, a="1")
    peer.replica.gap()
    number = peer.replica.begin_snapshot()
    peer.set(2, "a", "2")
    peer.delete(3, "a")
    peer.set(4, "b", "4")
    assert peer.replica.values == {"a": b"1"}
    peer.replica.apply_snapshot(number, {b"=rev": b"3", b"=kind": b"del"})
    assert peer.replica.values == {"b": b"4"}
    assert peer.replica.revision == 4
    assert peer.heard == [(Change.DELETE, None)]


def test_a_skipped_revision_asks_for_a_snapshot() -> None:
    peer = joined(1)
    peer.set(3, "a", "3")
    assert peer.needs()
    assert peer.replica.values == {}
    peer.set(4, "a", "4")
    peer.snapshot(4, a="4", lost="2")
    assert peer.replica.values == {"a": b"4", "lost": b"2"}
    assert not peer.needs()
    peer.set(5, "a", "5")
    assert peer.replica.revision == 5


def test_a_skip_below_the_snapshot_is_none() -> None:
    peer = joined(9)
    peer.set(5, "a", "5")
    peer.set(8, "a", "8")
    peer.set(10, "a", "10")
    assert not peer.needs()
    assert peer.replica.revision == 10


def test_a_count_that_begins_again_is_a_new_epoch() -> None:
    for live in (True, False):
        peer = joined(7, old="1")
        if live:
            peer.set(8, "a", "8")
        peer.set(1, "new", "1")
        assert peer.needs(), live
        peer.snapshot(1, new="1")
        assert peer.replica.values == {"new": b"1"}
        assert peer.replica.revision == 1
        assert peer.replica.epoch == 1
        assert peer.heard[-1] == (Change.RESET, None)
        peer.set(2, "new", "2")
        assert peer.replica.values == {"new": b"2"}


def test_a_new_epoch_that_has_overtaken_ours_is_noticed() -> None:
    peer = joined(3, old="1")
    for revision in range(1, 6):
        peer.set(revision, "new", str(revision))
    assert peer.replica.values == {"old": b"1"}
    assert peer.needs()
    peer.snapshot(5, new="5")
    assert peer.replica.values == {"new": b"5"}
    assert peer.replica.epoch == 1


def test_a_new_epoch_during_a_snapshot_asks_for_another() -> None:
    peer = joined(1)
    peer.replica.gap()
    number = peer.replica.begin_snapshot()
    peer.set(2, "a", "2")
    peer.set(1, "b", "1")
    peer.replica.apply_snapshot(number, {b"=rev": b"2", b"a": b"2"})
    assert peer.needs()
    peer.snapshot(1, b="1")
    assert peer.replica.values == {"b": b"1"}
    assert not peer.needs()


def test_a_lower_snapshot_is_taken_whole() -> None:
    peer = joined(9, a="9", b="9")
    peer.replica.gap()
    peer.snapshot(2, a="2")
    assert peer.replica.values == {"a": b"2"}
    assert peer.replica.revision == 2
    assert peer.heard == [(Change.RESET, None)]


def test_a_snapshot_from_before_a_gap_is_dropped() -> None:
    peer = joined(1, a="1")
    peer.replica.request_snapshot()
    number = peer.replica.begin_snapshot()
    peer.replica.gap()
    peer.replica.apply_snapshot(number, {b"=rev": b"2"})
    assert peer.needs()
    assert peer.replica.values == {"a": b"1"}


def test_the_kind_of_a_snapshot() -> None:
    for kind, change in [
        ("set", Change.SET),
        ("del", Change.DELETE),
        ("reset", Change.RESET),
        ("destroy", Change.RESET),
        ("else", Change.SET),
    ]:
        peer = joined(1)
        peer.replica.gap()
        peer.snapshot(2, kind)
        assert peer.heard == [(change, None)], kind
        peer.replica.gap()
        peer.snapshot(2, kind)
        assert peer.heard[1:] == [(Change.SET, None)], kind


def test_a_deletion_that_was_missed_is_told() -> None:
    peer = joined(1, a="1", b="1")
    peer.replica.gap()
    peer.snapshot(3, "set", b="2")
    assert peer.heard == [(Change.DELETE, None)]


def test_the_revision_of_the_server_is_compared_with_ours() -> None:
    peer = joined(5)
    here = peer.replica.position
    assert peer.replica.check_revision(5, here)
    assert not peer.replica.check_revision(6, here)
    assert not peer.needs()
    peer.set(6, "a", "6")
    assert peer.replica.check_revision(5, here), "it was read before the sixth"
    assert not peer.needs()
    peer.replica.check_revision(4, here)
    assert peer.needs()


def test_malformed_messages_and_the_two_fields_change_nothing() -> None:
    peer = joined(1, a="1")
    for data in (b"", b"reset:*", b"set:\xff\xff\xff\xff", b"what:1"):
        peer.replica.receive(data)
    assert len(peer.malformed) == 4
    peer.set(2, "=rev", "2")
    peer.set(2, "=kind", "2")
    peer.delete(2, "=rev")
    assert peer.replica.values == {"a": b"1"}
    assert peer.replica.revision == 1
    assert peer.heard == []
    assert not peer.needs()


def test_a_value_that_cannot_be_decoded_is_kept_aside() -> None:
    peer = joined(1, a="1", b="bad")
    assert peer.replica.values == {"a": b"1"}
    assert peer.replica.undecodable == {"b": b"bad"}
    peer.set(2, "a", "bad")
    assert peer.replica.values == {}
    peer.set(3, "b", "good")
    assert peer.replica.values == {"b": b"good"}
    peer.delete(4, "a")
    assert peer.replica.undecodable == {}


def test_an_unreadable_revision_counts_as_zero() -> None:
    peer = Peer()
    peer.replica.apply_snapshot(peer.replica.begin_snapshot(), {b"=rev": b"x", b"a": b"1"})
    assert peer.replica.revision == 0
    assert peer.replica.values == {"a": b"1"}


def wait(
    peer: Peer,
    revision: int,
    key: str = "a",
    value: str = "",
    *,
    expected: PendingSet | None = None,
) -> Callable[[], bool]:
    """Send a set and have its reply; return a function that says whether the wait is over."""
    if expected is None:
        expected = peer.replica.expect_set(key.encode(), (value or str(revision)).encode())
    released: list[None] = []
    if peer.replica.wait_for_set(expected, revision, lambda: released.append(None)):
        released.append(None)
    return lambda: bool(released)


def test_a_wait_ends_with_its_revision_or_a_later_one() -> None:
    peer = joined(1)
    second, third, fourth = wait(peer, 2), wait(peer, 3), wait(peer, 4)
    assert not second()
    peer.set(2, "a", "2")
    assert second()
    assert not third()
    peer.set(3, "a", "3")
    assert third()
    peer.replica.gap()
    assert not fourth()
    peer.snapshot(9)
    assert fourth()


def test_a_wait_for_a_set_whose_message_came_before_its_reply_is_over() -> None:
    peer = joined(8)
    expected = peer.replica.expect_set(b"a", b"9")
    peer.set(9, "a", "9")
    peer.set(10, "a", "10")
    assert wait(peer, 9, expected=expected)()
    assert not peer.needs()


@pytest.mark.parametrize("replies_first", [True, False])
def test_a_message_of_somebody_else_with_the_revision_of_a_set_ends_the_epoch(
    replies_first: bool,  # noqa: FBT001 - parametrized
) -> None:
    for key, value in (("a", "old"), ("b", "2")):
        peer = joined(1, a="1")
        expected = peer.replica.expect_set(b"a", b"2")
        if not replies_first:
            peer.set(2, key, value)
        waiting = wait(peer, 2, expected=expected)
        if replies_first:
            peer.set(2, key, value)
        assert not waiting()
        assert peer.needs()
        peer.snapshot(2, a="2")
        assert waiting()
        assert peer.heard[-1] == (Change.RESET, None)


def test_a_snapshot_in_order_ends_a_wait_only_if_the_message_of_the_set_came_before_it() -> None:
    for message in (True, False):
        peer = joined(1, a="1")
        peer.replica.request_snapshot()
        number = peer.replica.begin_snapshot()
        expected = peer.replica.expect_set(b"a", b"2")
        if message:
            peer.set(2, "a", "2")
        waiting = wait(peer, 2, expected=expected)
        fields = {b"=rev": b"5", b"=kind": b"set", b"a": b"5"}
        peer.replica.apply_snapshot(number, fields, in_order=True)
        assert waiting() is message
        assert peer.needs() is not message


def test_a_set_that_the_server_lost_before_its_reply_came_ends_with_a_snapshot() -> None:
    for gap in (True, False):  # the message is lost; or it comes before the snapshot
        peer = joined(0)
        expected = peer.replica.expect_set(b"a", b"1")
        if gap:
            peer.replica.gap()
        number = peer.replica.begin_snapshot()
        if not gap:
            peer.set(1, "a", "1")
        peer.replica.apply_snapshot(number, {}, in_order=True)
        waiting = wait(peer, 1, expected=expected)
        assert not waiting()
        assert peer.needs()
        peer.snapshot(0)
        assert waiting()


def test_what_is_no_longer_expected_is_forgotten() -> None:
    peer = joined(1)
    first, second = (peer.replica.expect_set(b"a", b"2") for _ in range(2))
    peer.replica.forget_set(first)
    peer.set(2, "a", "2")
    assert first.heard == []
    assert second.heard == [2]
    peer.replica.forget_set(second)


def test_a_wait_is_not_over_early_in_a_new_epoch() -> None:
    peer = joined(1000)
    waiting = wait(peer, 3)
    assert not waiting()
    assert peer.needs()
    peer.snapshot(3)
    assert waiting()


def test_a_wait_is_not_over_by_a_snapshot_from_before_it() -> None:
    peer = joined(1000)
    peer.replica.request_snapshot()
    number = peer.replica.begin_snapshot()
    waiting = wait(peer, 3)
    peer.replica.apply_snapshot(number, {b"=rev": b"1000"})
    assert not waiting()
    assert peer.needs()
    peer.snapshot(3)
    assert waiting()


def test_a_wait_for_a_commit_that_the_server_lost_ends_too() -> None:
    peer = joined(1000)
    waiting = wait(peer, 1005)
    peer.set(1, "a", "1")
    peer.snapshot(1, a="1")
    assert waiting()


def test_a_wait_for_a_state_ends_with_its_revision() -> None:
    peer = joined(5)
    released: list[None] = []
    peer.replica.wait_for_state(6, peer.replica.position, lambda: released.append(None))
    assert not released
    peer.set(6, "a", "6")
    assert released
    assert not peer.needs()


def test_a_wait_for_a_snapshot_after_a_gap_ends_with_it_and_is_no_reset() -> None:
    peer = joined(5)
    peer.replica.gap()
    released: list[None] = []
    peer.replica.wait_for_snapshot(lambda: released.append(None))
    peer.snapshot(5)
    assert released
    assert not peer.needs()
    assert peer.heard == [(Change.SET, None)]
    assert peer.replica.epoch == 0


def test_a_wait_over_the_end_of_an_epoch_ends_with_a_snapshot_begun_after_it() -> None:
    peer = joined(5, a="1")
    expected = peer.replica.expect_set(b"a", b"3")
    peer.replica.gap()
    peer.snapshot(2, a="2")
    waiting = wait(peer, 3, expected=expected)
    peer.set(3, "a", "3")
    assert not waiting()
    peer.snapshot(3, a="3")
    assert waiting()
    assert [change for change, _ in peer.heard] == [Change.RESET, Change.SET]


def test_a_snapshot_in_order_holds_all_that_came_before_it() -> None:
    peer = joined(2, a="2")
    replica = peer.replica
    number = replica.begin_snapshot()
    peer.set(3, "a", "late")  # from before a flush, and the very next of the new count
    replica.apply_snapshot(number, {b"=rev": b"2", b"=kind": b"set", b"b": b"2"}, in_order=True)
    assert replica.values == {"b": b"2"}
    peer.set(3, "b", "3")
    assert replica.values == {"b": b"3"}
    assert not peer.needs()


@pytest.mark.parametrize("revision", [1, 2, 3, 5])
def test_after_a_snapshot_in_order_only_its_successor_is_no_sign(revision: int) -> None:
    peer = joined(9, a="9")
    number = peer.replica.begin_snapshot()
    fields = {b"=rev": b"3", b"=kind": b"set", b"a": b"3"}
    peer.replica.apply_snapshot(number, fields, in_order=True)
    peer.set(revision, "a", "new")
    assert peer.needs()
    assert peer.replica.values == {"a": b"3"}


@pytest.mark.parametrize(("revision", "is_sign"), [(4, True), (5, False), (6, True)])
def test_the_servers_revision_at_this_place(revision: int, is_sign: bool) -> None:  # noqa: FBT001 - parametrized
    peer = joined(5, a="5")
    assert peer.replica.check_state(revision) is not is_sign
    assert peer.needs() is is_sign


def test_the_servers_revision_says_nothing_while_a_snapshot_is_under_way() -> None:
    peer = joined(5, a="5")
    number = peer.replica.begin_snapshot()
    assert not peer.replica.check_state(5)
    assert peer.needs()
    peer.replica.apply_snapshot(number, {b"=rev": b"5", b"a": b"5"})
    assert not peer.needs()


# --- a model -------------------------------------------------------------------------------
