"""What is in Redis, as a whole: the state of all rooms at once, and what is wrong with it.

`examine` is the doctor: it says what is amiss with a Redis for the use that Terzetto
makes of it. Reads only; nothing here changes anything.
"""

from terzetto.observe._doctor import Finding, Level, examine

__all__ = ["Finding", "Level", "examine"]
