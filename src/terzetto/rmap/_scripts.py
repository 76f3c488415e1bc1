"""The scripts of a map, one for each operation; each file says what it takes and returns.

`_core` runs them. All take the content hash as their only key, then the updates
channel and the expiry, then what the operation needs.
"""

from typing import Final

from terzetto.redis import Script


def _load(operation: str) -> Script:
    return Script.load("terzetto.rmap", f"lua/{operation}.lua")


SET: Final = _load("set")
SET_IF_ABSENT: Final = _load("set_if_absent")
TEST_AND_SET: Final = _load("test_and_set")
INCREMENT: Final = _load("increment")
APPEND_VALUES: Final = _load("append_values")
APPEND_UNIQUE_VALUES: Final = _load("append_unique_values")
REMOVE_VALUES: Final = _load("remove_values")
DELETE: Final = _load("delete")
TEST_AND_DELETE: Final = _load("test_and_delete")
TEST_AND_RESET: Final = _load("test_and_reset")
RESET: Final = _load("reset")
DESTROY: Final = _load("destroy")
