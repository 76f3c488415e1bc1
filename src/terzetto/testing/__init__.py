"""Tools for tests of programs that use Terzetto; nothing in the package imports them.

`open_program` runs a Python program in a process of its own, to be killed,
paused and interrupted like one in production.
"""

from terzetto.testing._program import Program, ProgramEndedError, open_program

__all__ = ["Program", "ProgramEndedError", "open_program"]
