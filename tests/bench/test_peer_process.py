from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmoe_ray.bench import peer_process
from lmoe_ray.bench.peer_process import PeerProcess, environment
from lmoe_ray.bench.peers import peer_protocol
from lmoe_ray.bench.peers.peer_protocol import Arrivals, Run, Start, groups
from lmoe_ray.errors import PeerFailed

pytestmark = pytest.mark.slow

SCRIPTED = Path(__file__).with_name("scripted_peer.py")
START = Start("model", ["a", "b"], threads=1, dtype="float32", max_seqs=4, max_len=16)
RUN = Run([[1, 2], [3, 4]], [None, 0], new_tokens=3)

Open = Callable[..., PeerProcess]


@pytest.fixture
def open_peer(tmp_path: Path) -> Iterator[Open]:
    opened: list[PeerProcess] = []

    def open_one(trouble: str = "nothing", interpreter: str = sys.executable) -> PeerProcess:
        command = [interpreter, str(SCRIPTED), trouble, "1"]
        opened.append(PeerProcess("scripted", command, START, tmp_path / "peer.log"))
        return opened[-1]

    yield open_one
    for peer in opened:
        peer.close()


def test_an_engine_says_what_it_is_and_when_its_tokens_came(open_peer: Open) -> None:
    peer = open_peer()

    peer.wait_until_ready()
    answer = peer.run(RUN)

    assert (peer.ready.version, peer.ready.dtype, peer.ready.torch) == ("1.2", "float32", None)
    assert answer["token_s"] == [[0.5, pytest.approx(0.6), pytest.approx(0.7)]] * 2


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("run", "scripted is left out: MemoryError: too small; its log is .*peer.log"),
        ("death", "scripted is left out: ended"),
        ("count", r"gave \[2\] tokens a request, 3 were asked for"),
    ],
)
def test_an_engine_that_fails_in_a_run_says_why(open_peer: Open, trouble: str, words: str) -> None:
    peer = open_peer(trouble)
    peer.wait_until_ready()

    with pytest.raises(PeerFailed, match=words):
        peer.run(RUN)


def test_an_engine_that_cannot_load_says_why(open_peer: Open) -> None:
    with pytest.raises(PeerFailed, match="RuntimeError: no such device"):
        open_peer("load").wait_until_ready()


def test_an_interpreter_that_is_not_there_is_no_crash(open_peer: Open) -> None:
    with pytest.raises(PeerFailed, match="cannot be started"):
        open_peer(interpreter="/nowhere/python")


def test_an_engine_that_keeps_silent_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peer_process, "ANSWER_TIMEOUT_S", 0.2)
    peer = PeerProcess("mute", [sys.executable, "-c", "import time; time.sleep(60)"], START, tmp_path / "log")

    with pytest.raises(PeerFailed, match=r"was ended after 0\.2 s"):
        peer.wait_until_ready()
    peer.close()


def test_waiting_threads_sleep_and_are_as_many_as_asked_for() -> None:
    variables = environment(3)

    assert variables["OMP_NUM_THREADS"] == "3"
    assert variables["OMP_WAIT_POLICY"] == "passive"
    assert "PATH" in variables


class Counting:
    """Token ids count up; every third of a second brings one."""

    dtype = "float32"

    def run(self, run: Run) -> Arrivals:
        if not run.prompts:
            raise ValueError("nothing to do")
        arrivals = Arrivals(len(run.prompts))
        for request in range(len(run.prompts)):
            arrivals.note(request, range(run.new_tokens))
        return arrivals


def load_noisily(start: Start) -> Counting:
    os.write(1, b"a library's greeting")
    return Counting()


def test_serving_keeps_what_libraries_print_out_of_the_protocol() -> None:
    program = (
        "import sys\n"
        f"sys.path[:0] = [{str(Path(peer_protocol.__file__).parent)!r}, {str(Path.cwd())!r}]\n"
        "from tests.bench.test_peer_process import load_noisily\n"
        "from lmoe_ray.bench.peers.peer_protocol import serve\n"
        "serve('pytest', load_noisily)\n"
    )
    start = '{"model": "m", "adapters": [], "threads": 1, "dtype": "float32", "max_seqs": 1, "max_len": 8}'
    lines = [
        start,
        '{"prompts": [[1]], "adapters": [null], "new_tokens": 2}',
        '{"prompts": [], "adapters": [], "new_tokens": 2}',
    ]

    done = subprocess.run([sys.executable, "-c", program], input="\n".join(lines), capture_output=True, text=True)

    ready, answer, error = [json.loads(line) for line in io.StringIO(done.stdout)]
    assert (ready["ready"], ready["version"], ready["dtype"]) == (True, pytest.__version__, "float32")
    assert answer["tokens"] == [[0, 1]]
    assert [len(times) for times in answer["token_s"]] == [2]
    assert error == {"error": "ValueError: nothing to do"}
    assert "a library's greeting" in done.stderr
    assert done.returncode == 1


def test_requests_are_grouped_by_adapter_in_order_of_appearance() -> None:
    assert groups([2, None, 2, 0]) == {2: [0, 2], None: [1], 0: [3]}
