"""The processes of the engines that are compared: all loaded before the first run, each out once it fails.

An engine has one process, or two if it is faster without adapters: then its base cells run in one that has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmoe_ray.bench.peer_process import PeerProcess, Ready
from lmoe_ray.bench.peers.peer_protocol import Run, Start
from lmoe_ray.bench.speed_cells import Cell, Workload
from lmoe_ray.bench.speed_engines import PEERS, EngineKind, PeerPlaces
from lmoe_ray.errors import PeerFailed

#: Told what is going on.
Say = Callable[[str], None]


class EnginePool:
    """Use as a context: leaving ends the processes."""

    def __init__(
        self,
        kinds: Iterable[EngineKind],
        workload: Workload,
        model: Path,
        places: PeerPlaces,
        adapters: Sequence[Path],
        logs: Path,
        *,
        progress: Say,
        warn: Say,
    ) -> None:
        """
        Args:
            model: folder in the layout of Hugging Face.
            adapters: PEFT folders, as many as the workload has.
            logs: folder of the processes' standard error.
            progress: told of each engine that loads.
            warn: told of engines that fail, and why.
        """
        self._kinds = {kind.name: kind for kind in kinds}
        self._workload, self._model, self._places = workload, model, places
        self._adapters, self._logs = adapters, logs
        self._progress, self._warn = progress, warn
        self._processes: dict[tuple[str, bool], PeerProcess] = {}

    def __enter__(self) -> EnginePool:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.close()

    @property
    def kinds(self) -> tuple[EngineKind, ...]:
        """Those that have not failed."""
        return tuple(self._kinds.values())

    def cells(self, kind: EngineKind) -> list[Cell]:
        """Those of the workload that the engine can compute."""
        return [cell for cell in self._workload.cells if kind.can_run(cell)]

    def load(self) -> None:
        """Start every process, then wait for each."""
        for kind in self.kinds:
            with self.may_fail(kind):
                for has_adapters in {self._has_adapters(kind, cell) for cell in self.cells(kind)}:
                    self._processes[kind.name, has_adapters] = self._spawn(kind, has_adapters)
        for kind in self.kinds:
            self._progress(f"loading {kind.name}")
            with self.may_fail(kind):
                for name, process in self._processes.items():
                    if name[0] == kind.name:
                        process.wait_until_ready()

    @contextmanager
    def may_fail(self, kind: EngineKind) -> Iterator[None]:
        """An engine that fails here is out, with a word; the others go on."""
        try:
            yield
        except PeerFailed as exc:
            self._warn(str(exc))
            del self._kinds[kind.name]

    def ready(self, kind: EngineKind, cell: Cell) -> Ready:
        """What the process said that runs this cell."""
        return self._process(kind, cell).ready

    def run(self, kind: EngineKind, cell: Cell, run: Run) -> dict[str, Any]:
        """See :meth:`PeerProcess.run`."""
        return self._process(kind, cell).run(run)

    def _process(self, kind: EngineKind, cell: Cell) -> PeerProcess:
        return self._processes[kind.name, self._has_adapters(kind, cell)]

    def _has_adapters(self, kind: EngineKind, cell: Cell) -> bool:
        return bool(self._adapters) and not (kind.has_bare_base and cell.mix == "base")

    def _spawn(self, kind: EngineKind, has_adapters: bool) -> PeerProcess:
        work = self._workload
        start = Start(
            model=str(self._places.model(kind, self._model)),
            adapters=[str(folder) for folder in self._adapters] if has_adapters else [],
            threads=work.threads,
            dtype=work.dtype,
            max_seqs=work.max_concurrency,
            # One more than is used, for engines that make room for the token after the last one.
            max_len=work.prompt_tokens + work.new_tokens + 1,
        )
        log = self._logs / f"{kind.name}{'' if has_adapters else '-base'}.log"
        command = [str(self._places.python(kind.environment)), str(PEERS / kind.script), *kind.arguments]
        return PeerProcess(kind.name, command, start, log, kind.variables)
