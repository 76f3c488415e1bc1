"""Tools for tests of programs that use Terzetto; nothing in the package imports them.

`Probe` and `Journal` show what happens to an actor, `CrashPlan` and `inject`
make one crash, `virtual_clock` and `seeded` put time and order under the
test's control, and `no_task_leaks` finds tasks that were left behind
(`terzetto.testing.pytest_plugin` has it as a fixture). `open_program` runs a
Python program in a process of its own, to be killed, paused and interrupted
like one in production. `open_proxy` stands between a client and a server and
makes the faults of a network.
"""

from terzetto.testing._faults import CrashPlan, InjectedCrash, inject
from terzetto.testing._leaks import TaskLeakError, no_task_leaks
from terzetto.testing._probe import Journal, Probe
from terzetto.testing._program import Program, ProgramEndedError, open_program
from terzetto.testing._proxy import Proxy, open_proxy
from terzetto.testing._relay import ProxyConnection
from terzetto.testing._rules import Fault, Rule
from terzetto.testing._schedule import run_seeded, seeded, virtual_clock

__all__ = [
    "CrashPlan",
    "Fault",
    "InjectedCrash",
    "Journal",
    "Probe",
    "Program",
    "ProgramEndedError",
    "Proxy",
    "ProxyConnection",
    "Rule",
    "TaskLeakError",
    "inject",
    "no_task_leaks",
    "open_program",
    "open_proxy",
    "run_seeded",
    "seeded",
    "virtual_clock",
]
