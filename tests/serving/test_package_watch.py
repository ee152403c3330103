from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmoe_ray.serving.package_watch import PackageWatch

INTERVAL_S = 0.005


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "routing_data").mkdir()
    (tmp_path / "routing_data" / "expert_code.jsonl").write_text('{"instruction": "sort a list"}')
    return tmp_path


class Calls:
    """Counts calls, and lets a test wait for one."""

    def __init__(self, fails: bool = False) -> None:
        self.num, self._fails, self._more = 0, fails, threading.Condition()

    def __call__(self) -> None:
        with self._more:
            self.num += 1
            self._more.notify_all()
        if self._fails:
            raise ValueError("the package is broken")

    def wait_for(self, num: int) -> bool:
        with self._more:
            return self._more.wait_for(lambda: self.num >= num, timeout=10)


@pytest.fixture
def watch(package: Path) -> Iterator[Callable[[Calls], None]]:
    watches: list[PackageWatch] = []
    yield lambda calls: watches.append(PackageWatch(package, INTERVAL_S, calls))
    for one in watches:
        one.close()


def put(package: Path, name: str, text: str, time_s: int | None = None) -> None:
    """A file that is there all at once, however busy the machine is: no look meets the half of it."""
    new = package / "new"
    new.write_text(text)
    if time_s is not None:
        os.utime(new, (time_s, time_s))
    new.replace(package / name)


def test_a_changed_sample_is_noticed_once(package: Path, watch: Callable[[Calls], None]) -> None:
    calls = Calls()
    watch(calls)

    put(package, "routing_data/expert_code.jsonl", '{"instruction": "sort a longer list"}')

    assert calls.wait_for(1)
    time.sleep(5 * INTERVAL_S)
    assert calls.num == 1


def test_an_expert_that_comes_and_one_that_goes_are_changes(package: Path, watch: Callable[[Calls], None]) -> None:
    calls = Calls()
    watch(calls)

    put(package, "routing_data/expert_math.jsonl", '{"instruction": "add"}')
    assert calls.wait_for(1)
    (package / "routing_data" / "expert_code.jsonl").unlink()

    assert calls.wait_for(2)


def test_files_that_are_not_the_packages_do_not_count(package: Path, watch: Callable[[Calls], None]) -> None:
    calls = Calls()
    watch(calls)

    (package / "notes.txt").write_text("to do")
    time.sleep(5 * INTERVAL_S)

    assert calls.num == 0


def test_a_package_that_cannot_be_used_does_not_end_the_watch(package: Path, watch: Callable[[Calls], None]) -> None:
    calls = Calls(fails=True)
    watch(calls)

    for number in (1, 2):
        put(package, "routing_data/expert_code.jsonl", "{" * number, time_s=number)
        assert calls.wait_for(number)
