"""Fit an index in another process: fitting holds Python's interpreter, and requests would have to wait their turn.

The other process is this module, run with the same interpreter. It reads the texts while they are still being
embedded here, and tells what it fitted in two parts, so that new samples are routed to before their confidence is
measured::

    this process                      the other one
    samples                        ──▶  reads texts for the heads
    vectors, how readable each is  ──▶  fits heads
                                   ◀──  familiarity, heads
                                   ◀──  the same with a calibration
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, Self

from lmoe_ray.routing.expert_index import Encoder, ExpertIndex, Progress, Vectors, index_vectors
from lmoe_ray.routing.fitted_index import Arrays, Fitting
from lmoe_ray.routing.sample_set import SampleSet

#: Below so many samples fitting takes less than a process takes to start.
MIN_SAMPLES = 1000

#: Requests come first on a busy machine.
_NICENESS = 10


@dataclass(frozen=True, slots=True)
class ReadTexts:
    """An encoder that has read its texts already and embeds none: what fitting needs of one."""

    identity: str
    space: str
    max_tokens: int
    known_shares: Mapping[str, float]

    @classmethod
    def by(cls, encoder: Encoder, texts: Sequence[str]) -> Self:
        """Below a millisecond a text."""
        known_shares = {text: encoder.known_share(text) for text in texts}
        return cls(encoder.identity, encoder.space, encoder.max_tokens, known_shares)

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        raise AssertionError("its texts were embedded elsewhere. This is a bug.")

    def known_share(self, text: str) -> float:
        return self.known_shares[text]


class FitProcess:
    """One fit in a process of its own; ended with the ``with`` that it is used in.

    Raises:
        OSError, EOFError: the process could not be started, or died; what it said stands in this process's log.
    """

    def __init__(self, samples: SampleSet) -> None:
        paths = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=paths
        )
        try:
            self._send(samples)
        except OSError:
            self._end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def fit(self, vectors: Vectors, encoder: ReadTexts) -> dict[str, Arrays]:
        """What is fitted on the samples' vectors ``[num_samples, dim]``, without a calibration."""
        self._send((vectors, encoder))
        return self._receive()

    def calibrate(self) -> dict[str, Arrays]:
        """The same and its calibration; after :meth:`fit`."""
        return self._receive()

    def _send(self, message: Any) -> None:
        assert self._process.stdin is not None
        pickle.dump(message, self._process.stdin)
        self._process.stdin.flush()

    def _receive(self) -> dict[str, Arrays]:
        assert self._process.stdout is not None
        parts: dict[str, Arrays] = pickle.load(self._process.stdout)
        return parts


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """The other process."""
    samples = pickle.load(requests)
    fitting = Fitting(samples.rows)
    vectors, encoder = pickle.load(requests)
    index = ExpertIndex(samples, index_vectors(vectors, [len(texts) for texts in samples.texts]))
    fitted = fitting.fit(index, "", encoder)
    pickle.dump(fitted.arrays(), answers)
    answers.flush()
    pickle.dump(fitting.calibrate(fitted, encoder).arrays(), answers)
    answers.flush()


if __name__ == "__main__":
    os.nice(_NICENESS)
    # Whatever a library prints must not come between the answers.
    stdout, sys.stdout = sys.stdout, sys.stderr
    _serve(sys.stdin.buffer, stdout.buffer)
