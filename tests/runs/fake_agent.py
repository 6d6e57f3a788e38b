"""A coding agent for tests: a program of its own that speaks JSON lines, edits files where it stands, and remembers.

Its prompt is the list of what it shall do. What a session has done stands in AGENT_HOME, so that another process of it
goes on behind that: ``["write", path, text]``, ``["delete", path]``, ``["run", word, ...]`` (a command), ``["hold"]``
(waits for a line), ``["die"]``, ``["usage", input, output]`` and ``["say", text]``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    memory = Path(os.environ["AGENT_HOME"]) / asked["session"]
    done = json.loads(memory.read_text()) if memory.exists() else []
    steps: list[list[Any]] = json.loads(asked["prompt"])
    said, usage = "", None
    for number, (verb, *words) in enumerate(steps):
        if number not in done:
            done.append(number)
            if verb == "hold":
                # It counts as done before it is over: whoever takes the session up again is not held twice.
                memory.write_text(json.dumps(done))
            act(verb, words)
            memory.write_text(json.dumps(done))
        if verb == "usage":
            usage = {"input": words[0], "output": words[1]}
        if verb == "say":
            said = words[0]
    tell({"said": said, "usage": usage})


def act(verb: str, words: list[str]) -> None:
    match verb:
        case "write":
            file = Path(words[0])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(words[1].encode("latin-1"))
        case "delete":
            Path(words[0]).unlink()
        case "run":
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        case "hold":
            tell({"held": True})
            sys.stdin.readline()
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)


def tell(message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
