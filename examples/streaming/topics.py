"""Publish and subscribe by topic: equal, by pattern, or by a function of the event.

Run it with ``python -m examples.streaming.topics``; it starts a server of its own.
"""

import trio

import terzetto
from terzetto.streaming import OLDEST, Event, InvalidPatternError, Reader, Stream


def is_about_paris(event: Event) -> bool:
    """Tell whether a story mentions Paris."""
    return b"Paris" in event.payload


async def show(what: str, reader: Reader, count: int) -> None:
    """Print the payloads of so many events."""
    print(what, "->", ", ".join([(await anext(reader)).payload.decode() for _ in range(count)]))


async def main() -> None:
    """Read one stream in three ways."""
    async with terzetto.connect("embedded://") as redis:
        news = Stream("news", redis)
        await news.add("story", b"rain in Hamburg", topic="eu.de.weather")
        await news.add("story", b"election in Lyon", topic="eu.fr.politics")
        await news.add("story", b"snow in Boston", topic="us.weather")
        await news.add("story", b"strike in Paris", topic="eu.fr.economy")

        async with news.open_reader(start=OLDEST, topic="us.weather") as reader:
            await show("us.weather", reader, 1)
        async with news.open_reader(start=OLDEST, topic_pattern=r"^eu\.") as reader:
            await show("anything in Europe", reader, 3)
        async with news.open_reader(
            start=OLDEST, matcher=lambda e: b"Paris" in e.payload
        ) as reader:
            await show("anything about Paris", reader, 1)

        try:
            news.open_reader(topic_pattern="eu.(de|fr")
        except InvalidPatternError as error:
            print("refused at position", error.position)


if __name__ == "__main__":
    trio.run(main)
