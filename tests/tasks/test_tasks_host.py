"""The host's name."""

import socket

import pytest

from terzetto.tasks._host import host_name


@pytest.mark.parametrize(("known", "shown"), [("here", "here"), ("", "unknown-host")])
def test_a_host_is_shown_by_its_name(
    monkeypatch: pytest.MonkeyPatch, known: str, shown: str
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: known)
    assert host_name() == shown


def test_a_host_whose_name_cannot_be_had_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise OSError("no name")

    monkeypatch.setattr(socket, "gethostname", refuse)
    assert host_name() == "unknown-host"
