"""Fan-out and fan-in: one job is split over workers, and their results come together again.

Run it with ``python -m examples.actors.fan_out``. Each worker counts the words
of its share; the answers are awaited in one nursery, so the first failure
cancels the rest and a deadline covers all of it.
"""

from collections import Counter

import attrs
import trio

from terzetto.actor import Actor, Ref, open_supervisor

LINES = [
    "to be or not to be",
    "that is the question",
    "whether it is nobler in the mind to suffer",
    "the slings and arrows of outrageous fortune",
    "or to take arms against a sea of troubles",
    "and by opposing end them",
]


@attrs.define
class WordCounter(Actor):
    """Counts the words of lines."""

    lines: int = 0

    async def count(self, line: str) -> Counter[str]:
        """Return how often each word is in `line`."""
        self.lines += 1
        return Counter(line.split())

    async def handled(self) -> int:
        """Return how many lines this worker has had."""
        return self.lines


async def count_all(workers: list[Ref[WordCounter]], lines: list[str]) -> Counter[str]:
    """Spread `lines` over `workers`, and add up what they find."""
    total: Counter[str] = Counter()

    async def ask(worker: Ref[WordCounter], line: str) -> None:
        total.update(await worker.ask(WordCounter.count, line))

    async with trio.open_nursery() as nursery:
        for number, line in enumerate(lines):
            nursery.start_soon(ask, workers[number % len(workers)], line)
    return total


async def main() -> None:
    """Count the words of a few lines with three workers."""
    async with open_supervisor() as top:
        workers = [await top.spawn(WordCounter) for _ in range(3)]
        with trio.fail_after(5):
            total = await count_all(workers, LINES)
        for word, count in sorted(total.items(), key=lambda item: (-item[1], item[0]))[:3]:
            print(f"{count} {word}")
        for worker in workers:
            print(f"{worker.name} handled {await worker.ask(WordCounter.handled)} lines")


if __name__ == "__main__":
    trio.run(main)
