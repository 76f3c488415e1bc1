"""Thousands of made-up stories of a pool; `tests` tells the first few of them."""

import pytest

from tests.pool.test_pool_simulation import tell

SEEDS = 2000

pytestmark = pytest.mark.timeout(3600)


def test_no_story_of_two_thousand_loses_a_job_or_runs_one_twice() -> None:
    tell(range(1000, 1000 + SEEDS))
