"""``terzetto doctor``: what is wrong with a Redis for our use."""

from terzetto.cli._session import Target
from terzetto.observe import Level, examine

_HERE = Target()


async def doctor(*, target: Target = _HERE) -> int:
    """Say what is wrong with this Redis for our use.

    The exit code is 1 if anything is an error.
    """
    async with target.connect() as redis:
        findings = await examine(redis)
    columns = {"check": "Check", "level": "Level", "text": "Finding", "remedy": "Remedy"}
    if any(finding.server for finding in findings):
        columns = {"check": "Check", "server": "Server", **columns}
    target.output.show_table(
        columns,
        [
            {
                "check": finding.check,
                "server": finding.server,
                "level": finding.level.value,
                "text": finding.text,
                "remedy": finding.remedy,
            }
            for finding in findings
        ],
        "",
    )
    return 1 if any(finding.level is Level.ERROR for finding in findings) else 0
