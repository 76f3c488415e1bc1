"""Ctrl-C at any line of the link: it comes out as what it is, and no caller is left in a queue."""

from terzetto.server import EmbeddedServer
from terzetto.testing import open_program

# Has three tasks use a client, again and again, in children that Ctrl-C strikes at one
# line of the package: at the first, the 30th, and so on behind the last. Says what came
# out of each that was struck, and where; then "done".
STRICKEN = """
import os, pathlib, signal, sys, trio
from terzetto import redis
from terzetto.redis import connect

PACKAGE = str(pathlib.Path(redis.__file__).parent)
place = "nowhere"

def strike_at(number):
    passed = 0

    def trace_line(frame, event, argument):
        global place
        nonlocal passed
        passed += event == "line"
        if event == "line" and passed == number:
            place = f"{pathlib.Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
            signal.raise_signal(signal.SIGINT)
        return trace_line

    def trace_call(frame, *_):
        return trace_line if frame.f_code.co_filename.startswith(PACKAGE) else None

    sys.settrace(trace_call)

async def use(client):
    for _ in range(3):
        await client.execute("SET", "key", "value")
        await client.execute_many([("GET", "key"), ("EXISTS", "key")])

async def main(url, number):
    strike_at(number)
    async with connect(url) as client, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(use, client)

def leaves(error):
    if isinstance(error, BaseExceptionGroup):
        return {leaf for part in error.exceptions for leaf in leaves(part)}
    return {type(error).__name__}

def is_struck(url, number):
    raised = set()
    try:
        trio.run(main, url, number)
    except BaseException as error:  # whatever it is: the test judges it
        raised = leaves(error)
    sys.settrace(None)
    if place != "nowhere":
        print(place, *sorted(raised), flush=True)
    return place != "nowhere"

number, struck = 1, True
while struck:
    child = os.fork()
    if not child:
        os._exit(is_struck(sys.argv[1], number))
    struck = os.waitpid(child, 0)[1]
    number += 29
print("done", flush=True)
"""


async def test_ctrl_c_at_any_line_comes_out_as_it_is(server: EmbeddedServer) -> None:
    outcomes: list[str] = []
    async with open_program(STRICKEN, server.url) as program:
        while (line := await program.read_line()) != "done":
            outcomes.append(line)
    assert len(outcomes) > 50
    assert [each for each in outcomes if each.split()[1:] != ["KeyboardInterrupt"]] == []
