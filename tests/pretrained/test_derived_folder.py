"""What is built once is built once, whole, and rebuilt when damaged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lmoe_ray.pretrained.derived_folder import MANIFEST, derive, folder_digest, is_whole


class Builder:
    """Fills a folder, and counts how often."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, folder: Path) -> None:
        self.num_calls += 1
        (folder / "sub").mkdir()
        (folder / "weights").write_bytes(b"12345")
        (folder / "sub" / "more").write_bytes(b"678")


def test_a_whole_folder_is_built_once(tmp_path: Path) -> None:
    build = Builder()

    assert derive(tmp_path / "models" / "m", build) == tmp_path / "models" / "m"
    derive(tmp_path / "models" / "m", build)

    assert build.num_calls == 1
    assert is_whole(tmp_path / "models" / "m", verify=True)


@pytest.mark.parametrize("name", ["weights", "sub/more", MANIFEST])
def test_a_folder_with_a_short_file_is_built_again(tmp_path: Path, name: str) -> None:
    build = Builder()
    file = derive(tmp_path / "m", build) / name
    file.write_bytes(file.read_bytes()[:-2])

    derive(tmp_path / "m", build)

    assert build.num_calls == 2
    assert (tmp_path / "m" / "weights").read_bytes() == b"12345"


@pytest.mark.parametrize("name", ["weights", MANIFEST])
def test_a_folder_without_one_of_its_files_is_built_again(tmp_path: Path, name: str) -> None:
    build = Builder()
    (derive(tmp_path / "m", build) / name).unlink()

    derive(tmp_path / "m", build)

    assert build.num_calls == 2


def test_a_changed_byte_is_found_only_on_request(tmp_path: Path) -> None:
    build = Builder()
    (derive(tmp_path / "m", build) / "weights").write_bytes(b"12X45")

    derive(tmp_path / "m", build)
    assert build.num_calls == 1

    derive(tmp_path / "m", build, verify=True)
    assert build.num_calls == 2


def test_a_manifest_of_another_kind_counts_as_damage(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("[]")

    assert not is_whole(tmp_path)


def test_a_failed_build_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "weights").write_bytes(b"1")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        derive(tmp_path / "m", fail)

    assert [p.name for p in tmp_path.iterdir()] == ["m.lock"]


def test_what_a_killed_builder_left_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / ".m-abc" / "new").mkdir(parents=True)
    (tmp_path / ".other-abc").mkdir()

    derive(tmp_path / "m", Builder())

    assert sorted(p.name for p in tmp_path.iterdir()) == [".other-abc", "m", "m.lock"]


@pytest.mark.slow
def test_processes_that_start_together_build_once(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from lmoe_ray.pretrained.derived_folder import derive\n"
        "def build(folder):\n"
        "    with open(sys.argv[1] + '/calls', 'a') as calls: calls.write('x')\n"
        "    time.sleep(0.5); (folder / 'weights').write_text('1')\n"
        "print(derive(Path(sys.argv[1]) / 'm', build))\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]

    found = [process.communicate(timeout=60)[0].strip() for process in started]

    assert found == [str(tmp_path / "m")] * 3
    assert (tmp_path / "calls").read_text() == "x"


def test_a_digest_depends_on_content_and_names_only(tmp_path: Path) -> None:
    for place, name in (("one", "a"), ("two", "a"), ("three", "b")):
        (tmp_path / place / "inner").mkdir(parents=True)
        (tmp_path / place / name).write_text("same")

    assert folder_digest(tmp_path / "one") == folder_digest(tmp_path / "two")
    assert folder_digest(tmp_path / "one") != folder_digest(tmp_path / "three")

    (tmp_path / "two" / "a").write_text("diff")
    assert folder_digest(tmp_path / "one") != folder_digest(tmp_path / "two")
