"""Where a peer cannot be built the reason names what is missing; a build may take its time."""

from pathlib import Path

import pytest

from tests.interop import gopeer
from tests.interop.gopeer import PULSE_PEER, PeerMissingError, build_peer, install_command


def put_go(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program named go on PATH before all others, which runs `script` in a shell."""
    go = directory / "go"
    go.write_text(f"#!/bin/sh\n{script}\n")
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")


def test_without_go_the_reason_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PeerMissingError, match=r"^no go on PATH$"):
        build_peer(PULSE_PEER, tmp_path / "peer")


def test_without_pulse_the_reason_names_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_go(tmp_path, monkeypatch, "echo 'no such\n  module' >&2\nexit 1")
    with pytest.raises(PeerMissingError) as caught:
        build_peer(PULSE_PEER, tmp_path / "peer")
    assert (
        str(caught.value)
        == f"the Go module {PULSE_PEER.module} cannot be downloaded: no such module"
    )


def test_without_the_module_of_asynqs_command_the_reason_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_go(tmp_path, monkeypatch, "echo 'not found' >&2\nexit 1")
    with pytest.raises(PeerMissingError) as caught:
        install_command(tmp_path / "asynq")
    assert str(caught.value) == (
        "the command asynq of the Go module github.com/hibiken/asynq/tools cannot be built:"
        " not found"
    )


def test_where_a_build_takes_too_long_the_reason_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_go(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(gopeer, "BUILD_PATIENCE", 0.1)
    with pytest.raises(PeerMissingError) as caught:
        install_command(tmp_path / "asynq")
    assert str(caught.value) == (
        "the command asynq of the Go module github.com/hibiken/asynq/tools cannot be built"
        " within 0.1 seconds"
    )


@pytest.mark.usefixtures("asynq_binary")
def test_the_time_that_a_build_takes_is_not_the_tests(request: pytest.FixtureRequest) -> None:
    marker = request.node.get_closest_marker("timeout")
    assert marker.kwargs == {"func_only": True}
