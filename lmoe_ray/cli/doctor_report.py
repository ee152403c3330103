"""``lmoe check --routing``: the sample doctor's findings, as tables for people and as JSON lines for machines.

Imported by the verb when it runs, so it may import what is heavy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lmoe_ray.domain.package import LMoEPackage
from lmoe_ray.errors import PackageError
from lmoe_ray.pretrained.model_source import resolve
from lmoe_ray.pretrained.package_source import DEMO_INDEX
from lmoe_ray.routing.choose_embedder import choose_embedder
from lmoe_ray.routing.expert_index import Encoder
from lmoe_ray.routing.index_cache import load_or_build
from lmoe_ray.routing.sample_doctor import examine
from lmoe_ray.routing.sample_findings import Claim, Diagnosis, Doubt, Overlap, Sample
from lmoe_ray.routing.sample_set import choose_samples
from lmoe_ray.routing.sample_table import StageProgress
from lmoe_ray.routing.task_head import load_task_head
from lmoe_ray.settings import RouterSettings

err_console = Console(stderr=True)

_MAX_ROWS = 30
_MAX_CHARS = 80


def examine_packages(
    packages: Sequence[LMoEPackage], settings: RouterSettings, cache_dir: Path, console: Console, *, as_json: bool
) -> bool:
    """Examine all and print; answers whether there is no error.

    Raises:
        PackageError: there is no sample to examine.
        ModelSourceError: the embedding model is nowhere to be found.
    """
    with _bar("loading the embedder") as update:
        folder = resolve(settings.embedder, settings.embedder_revision, cache_dir)
        embedder = choose_embedder(folder, settings, [package.experts for package in packages], cache_dir)
        diagnoses = [_examine(package, settings, embedder, cache_dir, update) for package in packages]
    for package, diagnosis in zip(packages, diagnoses, strict=True):
        if as_json:
            print(json.dumps({"package": str(package.path), **diagnosis.as_dict()}))
        else:
            print_diagnosis(str(package.path), diagnosis, console)
    return not any(diagnosis.errors for diagnosis in diagnoses)


def _examine(
    package: LMoEPackage, settings: RouterSettings, embedder: Encoder, cache_dir: Path, update: StageProgress
) -> Diagnosis:
    samples = choose_samples(package.experts, settings.max_samples, settings.seed)
    if not samples.rows:
        raise PackageError(str(package.path), "has no routing samples to examine; add routing_data/expert_<name>.jsonl")
    fitted = load_or_build(
        samples, embedder, cache_dir, lambda done, total: update("embedding samples", done, total), DEMO_INDEX
    )
    task_head = load_task_head(embedder.space)
    return examine(package.experts, fitted.index, task_head, settings.max_tokens, update)


def print_diagnosis(title: str, diagnosis: Diagnosis, console: Console) -> None:
    """Findings by kind, the gravest first; kinds without a finding are left out."""
    console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
    console.print(_counts(diagnosis))
    if diagnosis.agreement is not None:
        console.print(f"{diagnosis.agreement:.1%} of the samples find their expert from the others", highlight=False)
    for table in _tables(diagnosis):
        if table.row_count:
            console.print(table)
    _print_tasks(diagnosis, console)
    for sentence in diagnosis.not_examined:
        console.print(f"not examined: {sentence}", style="dim", markup=False, highlight=False)
    num_errors = len(diagnosis.errors)
    if num_errors:
        console.print(f"[red]Errors, texts that several experts have: {num_errors}. Keep each in one.")
    else:
        console.print("[green]No errors; what is listed above is advice.")


def _counts(diagnosis: Diagnosis) -> Table:
    table = Table("expert", "samples", "used", box=SIMPLE_HEAD)
    for count in diagnosis.counts:
        table.add_row(count.expert, str(count.num_written), str(count.num_used))
    return table


def _tables(diagnosis: Diagnosis) -> Iterator[Table]:
    yield _table(
        "the same text more than once",
        ("experts", "times", "text"),
        [(", ".join(r.experts), str(r.num_times), _cut(r.text)) for r in diagnosis.repeats],
    )
    yield _table(
        "nearly the same text",
        ("experts", "meaning", "wording", "texts"),
        [
            (_experts(d.first, d.second), f"{d.meaning:.2f}", f"{d.wording:.2f}", _lines(d.first.text, d.second.text))
            for d in diagnosis.near_duplicates
        ],
    )
    yield _table(
        "samples that look like another expert's",
        ("filed under", "looks like", "sure", "neighbours", "text, and the nearest sample of the other"),
        list(map(_doubt, diagnosis.doubts)),
    )
    yield _table("experts that overlap", ("experts", "taken for", "examples"), list(map(_overlap, diagnosis.overlaps)))
    yield _table(
        "remarks",
        ("expert", "kind", "what", "text"),
        [(r.expert, r.kind, r.sentence, _cut(r.sample)) for r in diagnosis.remarks],
    )


def _doubt(doubt: Doubt) -> tuple[str, ...]:
    return (
        doubt.sample.expert,
        doubt.suggested,
        f"{doubt.confidence:.2f} to {doubt.own_confidence:.2f}",
        f"{doubt.num_agreeing} of {doubt.num_neighbours}",
        _lines(doubt.sample.text, doubt.nearest),
    )


def _overlap(overlap: Overlap) -> tuple[str, ...]:
    return (
        f"{overlap.first}\n{overlap.second}",
        f"{overlap.second}: {overlap.first_as_second:.1%}\n{overlap.first}: {overlap.second_as_first:.1%}",
        _lines(*(f"{example.expert}: {example.text}" for example in overlap.examples)),
    )


def _print_tasks(diagnosis: Diagnosis, console: Console) -> None:
    contested = [(task.task, "; ".join(map(_claim, task.claims))) for task in diagnosis.contested_tasks]
    suggested = [(s.owner.expert, f"write samples of kind {s.task}", _claim(s.rival)) for s in diagnosis.suggestions]
    for table in (
        _table("tasks that several experts claim, none of them well", ("task", "claims"), contested),
        _table("worth adding, at the border to another expert", ("expert", "what", "its rival"), suggested),
    ):
        if table.row_count:
            console.print(table)
    if unshown := diagnosis.unshown_tasks:
        names = ", ".join(unshown[:_MAX_ROWS]) + (" …" if len(unshown) > _MAX_ROWS else "")
        console.print(f"{len(unshown)} known tasks that no expert shows: {names}", markup=False, highlight=False)


def _claim(claim: Claim) -> str:
    return f"{claim.expert} {claim.share:.0%} (samples: {claim.num_samples:.0f})"


def _table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    """The first rows, and how many more there are. Texts are shown as they are, whatever brackets they hold."""
    left = len(rows) - _MAX_ROWS
    caption = f"and {left} more, see --json" if left > 0 else None
    table = Table(*columns, title=f"{title}: {len(rows)}", caption=caption, title_justify="left", box=SIMPLE_HEAD)
    for row in rows[:_MAX_ROWS]:
        table.add_row(*map(escape, row))
    return table


def _experts(first: Sample, second: Sample) -> str:
    return first.expert if first.expert == second.expert else f"{first.expert}\n{second.expert}"


def _lines(*texts: str) -> str:
    return "\n".join(map(_cut, texts))


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_CHARS else f"{line[: _MAX_CHARS - 1]}…"


@contextmanager
def _bar(first: str) -> Iterator[Callable[[str, int, int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err_console, transient=True) as bar:
        task = bar.add_task(first, total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
