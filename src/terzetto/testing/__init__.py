"""Tools for tests of programs that use Terzetto; nothing in the package imports them.

`open_program` runs a Python program in a process of its own, to be killed,
paused and interrupted like one in production.

`Probe` and `Journal` show what happens to an actor, `CrashPlan` and `inject`
make one crash, `virtual_clock` and `seeded` put time and order under the
test's control, and `no_task_leaks` finds tasks that were left behind
(`terzetto.testing.pytest_plugin` has it as a fixture). `open_program` runs a
Python program in a process of its own, to be killed, paused and interrupted
like one in production.
"""

from ._faults import CrashPlan, InjectedCrash, inject
from ._leaks import TaskLeakError, no_task_leaks
from ._probe import Journal, Probe
from ._program import Program, ProgramEndedError, open_program
from ._schedule import run_seeded, seeded, virtual_clock

__all__ = [
    "CrashPlan",
    "InjectedCrash",
    "Journal",
    "Probe",
    "Program",
    "ProgramEndedError",
    "TaskLeakError",
    "inject",
    "no_task_leaks",
    "open_program",
    "run_seeded",
    "seeded",
    "virtual_clock",
]
