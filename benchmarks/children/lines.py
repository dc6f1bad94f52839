"""How a child answers: one line of JSON for each line of its input, until that is closed.

Only what is in the standard library, because memory of children is measured.
"""

import json
import sys
from collections.abc import Callable


def say(**fields: object) -> None:
    """One line to the parent."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def answer(reply: Callable[[list[str]], dict[str, object]]) -> None:
    """Be ready, then answer the words of each line, until the input ends."""
    say(ready=True)
    for line in sys.stdin:
        say(**reply(line.split()))
