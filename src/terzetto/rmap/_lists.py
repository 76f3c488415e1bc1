r"""How a stored list is read. Pure.

Lists are JSON arrays of strings as the server's ``cjson`` writes them. Other
texts are read as the Go replicas read them, so that every member of a fleet
sees the same items: what is not an array of strings (and nulls, which are empty
items) is split at commas. One difference is deliberate: bytes that are not
UTF-8 come back unchanged here, where Go shows U+FFFD.

Called by the maps for `get_values` and for the replies of list operations.
"""

import json
import re
from typing import cast

from terzetto._shared._encoding import decode_text
from terzetto.rmap._keys import encode_text

# What Go's strings.TrimSpace takes off; Python's str.strip would also take \x1c to \x1f.
_WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)

# Every escape of a JSON text; a surrogate pair counts as one.
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[dD][89a-fA-F][0-9a-fA-F]{2}|.)",
    re.DOTALL,
)
_LONE_SURROGATE_LENGTH = 6


def read_list(stored: bytes) -> list[bytes]:
    """Return the items of a stored list; any bytes are a list of some kind."""
    text = decode_text(stored)
    items = _json_strings(text.strip(_WHITE_SPACE))
    if items is None:
        return stored.split(b",")
    return [encode_text(item) for item in items]


def _json_strings(text: str) -> list[str] | None:
    """Return the items of a JSON array of strings and nulls; None for anything else."""
    if not text.startswith("["):
        return None
    if "\\u" in text:
        # An escaped surrogate without its other half is no character. It must not
        # reach the decoder, where it would pass for a byte that is not UTF-8.
        text = _ESCAPE.sub(_replace_lone_surrogate, text)
    try:
        parsed: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    items: list[str] = []
    for item in cast("list[object]", parsed):
        if item is None:
            items.append("")
        elif isinstance(item, str):
            items.append(item)
        else:
            return None
    return items


def _replace_lone_surrogate(match: re.Match[str]) -> str:
    escape = match.group()
    return "\\ufffd" if len(escape) == _LONE_SURROGATE_LENGTH else escape
