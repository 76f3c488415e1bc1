"""A pytest fixture that fails a test which leaks a task.

Use it with pytest-trio: name the plugin once in the top ``conftest.py``,
``pytest_plugins = ["terzetto.testing.pytest_plugin"]``, and take the fixture
`task_leaks` in the tests that are to be held to it. Not imported by
`terzetto.testing`, because it needs pytest.
"""

from collections.abc import AsyncGenerator

import pytest

from terzetto.testing._leaks import no_task_leaks


@pytest.fixture
async def task_leaks() -> AsyncGenerator[None]:
    """Fail the test if a task that it started outlives it; fixtures that it needs come first."""
    async with no_task_leaks():
        yield
