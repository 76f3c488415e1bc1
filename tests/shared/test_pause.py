"""The pauses of loops that are refused."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from terzetto._shared._pause import Pause

seconds = st.floats(min_value=0, max_value=1e6)


def test_a_pause_is_a_tenth_of_a_second_and_doubles_up_to_five() -> None:
    pause = Pause()
    assert [pause.failed() for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


@given(first=seconds, more=seconds, failures=st.integers(min_value=1, max_value=2000))
def test_a_pause_doubles_up_to_the_longest(first: float, more: float, failures: int) -> None:
    longest = first + more
    pause = Pause(first=first, longest=longest)
    pauses = [pause.failed() for _ in range(failures)]
    assert pauses[0] == first
    assert all(later == min(2 * sooner, longest) for sooner, later in pairwise(pauses))


@given(outcomes=st.lists(st.booleans()))
def test_what_worked_makes_the_next_pause_the_first(outcomes: list[bool]) -> None:
    pause, in_a_row = Pause(), 0
    for has_worked in outcomes:
        if has_worked:
            pause.worked()
            in_a_row = 0
        else:
            assert pause.failed() == min(0.1 * 2**in_a_row, 5.0)
            in_a_row += 1
        assert pause.has_failed is not has_worked
