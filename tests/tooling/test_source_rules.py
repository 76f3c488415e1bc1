"""The rules of `nox -s lint` that are ours: each sees what it is for, and nothing else."""

import pytest

from tests.tooling import source_rules


def count_faults(text: str) -> int:
    return len(list(source_rules.check_comments(text)))


def test_500_lines_pass_and_501_do_not() -> None:
    assert not list(source_rules.check_length("\n" * 500))
    assert list(source_rules.check_length("\n" * 501))


def test_a_module_opens_with_a_docstring() -> None:
    assert not list(source_rules.check_docstring('"""Why."""\n'))
    assert list(source_rules.check_docstring("x = 1\n"))


@pytest.mark.parametrize(
    "line",
    [
        "x = 1  # " + "noqa: PLC0415 - an optional extra",
        "x = 1  # " + "noqa: S603, S607 - a fixed command",
        "x = 1  # " + "type: ignore[misc]  # the library's type is wrong",
        "x = 1  # " + "type: ignore[misc]  # " + "noqa: E501 - both have one reason",
        "x = 1  # " + "pyright: ignore[reportPrivateUsage] - its own test",
        "x = 1  # a comment about nothing",
        "x = '# " + "noqa'",
    ],
)
def test_a_silenced_rule_with_code_and_reason_passes(line: str) -> None:
    assert count_faults(line + "\n") == 0


@pytest.mark.parametrize(
    "line",
    [
        "x = 1  # " + "noqa - because I say so",
        "x = 1  # " + "noqa: PLC0415",
        "x = 1  # " + "type: ignore  # the library's type is wrong",
        "x = 1  # " + "type: ignore[misc]",
        "x = 1  # " + "type: ignore[misc]  # " + "noqa: E501",
        "x = 1  # " + "pyright: ignore[reportPrivateUsage]",
        "x = 1  # " + "pragma: no cover",
        "x = 1  # " + "fmt: skip",
        "# " + "ruff: noqa: E501",
    ],
)
def test_a_silenced_rule_without_code_or_reason_is_a_fault(line: str) -> None:
    assert count_faults(line + "\n") == 1


def test_a_setting_that_silences_a_rule_needs_a_reason() -> None:
    text = '[tool.ruff.lint]\nselect = ["ALL"]\nignore = [\n"D105", # why\n"D107",\n]\n'

    assert [fault.line for fault in source_rules.check_settings(text)] == [5]


def test_a_setting_for_some_files_needs_a_reason() -> None:
    text = '[tool.ruff.lint.per-file-ignores]\n"a/**" = ["S101"]\n"b/**" = ["S101"] # why\n'

    assert [fault.line for fault in source_rules.check_settings(text)] == [2]


def test_a_script_says_what_it_takes_and_returns() -> None:
    script = "-- Set a key.\n-- KEYS[1] the map\n-- ARGV[1] the key\n-- Returns 1.\nreturn {}\n"

    assert not list(source_rules.check_script(script.format("f(KEYS[1], ARGV[1])")))
    assert len(list(source_rules.check_script("return f(KEYS[1], ARGV[1])\n"))) == 3
    assert not list(source_rules.check_script("-- Returns 1; takes nothing.\nreturn 1\n"))
