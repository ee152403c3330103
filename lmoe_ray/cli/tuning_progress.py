"""What is shown while adapters are tuned, and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from lmoe_ray.training.tune import TuneProgress, TuneReport

console = Console()
#: Progress and remarks, so that ``--json`` on standard output stays JSON.
err_console = Console(stderr=True)


@contextmanager
def tuning_bar() -> Iterator[Callable[[TuneProgress], None]]:
    """A bar on standard error, and what to call with the state of the tuning."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    with Progress(*columns, console=err_console) as bar:
        task = bar.add_task("tuning", total=None, state="loading")

        def update(at: TuneProgress) -> None:
            speed = at.num_tokens_seen / at.elapsed_s if at.elapsed_s else 0
            bar.update(task, total=at.num_steps, completed=at.step, state=f"loss {at.loss:.3f} · {speed:.0f} tokens/s")

        yield update


def print_report(name: str, report: TuneReport) -> None:
    """One line on what tuning an expert did."""
    before, after = report.heldout_loss_before, report.heldout_loss_after
    gain = "" if before is None or after is None else f" · held-out loss {before:.3f} → {after:.3f}"
    console.print(
        f"{name}: {report.num_steps} steps, {report.num_tokens_seen} tokens in {report.elapsed_s:.0f} s{gain}",
        highlight=False,
    )
