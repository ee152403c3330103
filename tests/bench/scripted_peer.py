"""An engine whose clock is a script: the first token after half a second, every next one a tenth later.

Arguments: what goes wrong, ``nothing``, ``load``, ``run``, ``death`` or ``count``; then the time's factor.
"""

from __future__ import annotations

import json
import sys

trouble, factor = sys.argv[1], float(sys.argv[2])


def say(**sentence: object) -> None:
    sys.stdout.write(json.dumps(sentence) + "\n")
    sys.stdout.flush()


start = json.loads(sys.stdin.readline())
if trouble == "load":
    say(error="RuntimeError: no such device")
    sys.exit(1)
say(ready=True, version="1.2", dtype=start["dtype"], load_s=0.0, torch=None)
for line in sys.stdin:
    run = json.loads(line)
    if trouble == "death":
        sys.exit(3)
    if trouble == "run":
        say(error="MemoryError: too small")
        sys.exit(1)
    num_tokens = run["new_tokens"] - (trouble == "count")
    times = [factor * (0.5 + 0.1 * token) for token in range(num_tokens)]
    say(token_s=[times for _ in run["prompts"]], tokens=[list(range(num_tokens)) for _ in run["prompts"]])
