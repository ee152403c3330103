"""One engine's process, from the bench's side of ``peers/peer_protocol.py``."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmoe_ray.bench.peers.peer_protocol import Run, Start
from lmoe_ray.errors import PeerFailed

#: Longest wait for an answer, seconds: an engine that compiles itself on first use takes minutes.
ANSWER_TIMEOUT_S = 900.0
#: A whole Ray graph takes its time to stop.
CLOSE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Ready:
    """What an engine says when it is loaded."""

    version: str
    dtype: str
    load_s: float
    torch: str | None
    memory_bytes: int | None = None


class PeerProcess:
    """A process that speaks the protocol; begins to load at once.

    Attributes:
        ready: what it said of itself; there after :meth:`wait_until_ready`.
    """

    ready: Ready

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        start: Start,
        log: Path,
        variables: Iterable[tuple[str, str]] = (),
    ) -> None:
        """
        Args:
            name: the engine's, for messages.
            command: interpreter, script and arguments.
            log: where its standard error goes.
            variables: of its environment, over ours.

        Raises:
            PeerFailed: the command cannot be run.
        """
        self._name, self._log = name, log
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("wb") as stderr:
                self._process = subprocess.Popen(
                    list(map(str, command)),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=environment(start.threads) | dict(variables),
                    text=True,
                )
        except OSError as exc:
            raise PeerFailed(name, f"cannot be started: {exc}") from exc
        self._tell(dataclasses.asdict(start))

    def wait_until_ready(self) -> None:
        """
        Raises:
            PeerFailed: it could not load.
        """
        answer = self._hear()
        self.ready = Ready(
            answer["version"], answer["dtype"], answer["load_s"], answer["torch"], answer.get("memory_bytes")
        )

    def run(self, run: Run) -> dict[str, Any]:
        """The answer's ``token_s`` and ``tokens``, each ``[request][token]``.

        Raises:
            PeerFailed: it said an error, died, kept silent, or gave another number of tokens.
        """
        self._tell(dataclasses.asdict(run))
        answer = self._hear()
        counts = {len(times) for times in answer["token_s"]}
        if len(answer["token_s"]) != len(run.prompts) or counts != {run.new_tokens}:
            raise PeerFailed(self._name, f"gave {sorted(counts)} tokens a request, {run.new_tokens} were asked for")
        return answer

    def close(self) -> None:
        """End the process; kill it if it does not end by itself."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tell(self, sentence: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(sentence) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._failed("ended") from None

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        watchdog = threading.Timer(ANSWER_TIMEOUT_S, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise self._failed(f"ended, or was ended after {ANSWER_TIMEOUT_S:g} s")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self._failed(str(answer["error"]))
        return answer

    def _failed(self, problem: str) -> PeerFailed:
        return PeerFailed(self._name, f"{problem}; its log is {self._log}")


def environment(threads: int) -> dict[str, str]:
    """This process's variables, and those by which the libraries count threads.

    Waiting threads sleep: an engine that spins between its steps would take the time of the one measured.
    """
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
        "KMP_BLOCKTIME": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
