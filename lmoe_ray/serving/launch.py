"""Run ``serve run`` in this process and watch it from a thread until the graph answers or fails."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path

import click
import httpx
import ray
from ray import serve
from ray.serve._private.constants import SERVE_NAMESPACE
from ray.serve.scripts import cli as serve_cli
from rich.console import Console

from lmoe_ray.api.api_keys import hashed_keys
from lmoe_ray.api.key_file import read_key_file
from lmoe_ray.errors import SettingsError
from lmoe_ray.serving.config_check import IMPORT_PATH, ServeConfig
from lmoe_ray.serving.ingress import require_keys

logger = logging.getLogger(__name__)

_POLL_S = 0.5
_SLOW_S = 120.0
_FAILED = ("DEPLOY_FAILED", "UNHEALTHY")


def run_graph(config_file: Path, checked: ServeConfig, console: Console) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        SettingsError: others could reach the API without a key, the keys cannot be read, or the deployment
            failed, and then the message is Serve's.
    """
    needs_key = _check_keys(checked)
    watcher = StartupWatcher(checked, console, needs_key)
    watcher.start()
    try:
        ray.init(address=os.environ.get("RAY_ADDRESS"), namespace=SERVE_NAMESPACE)
        _leave_on_signals()
        serve_cli.main(["run", str(config_file)], standalone_mode=False)
    except (SystemExit, KeyboardInterrupt, click.exceptions.Abort):
        # Its ordinary ends: SystemExit once it serves, the others when interrupted earlier.
        logger.debug("serve run has ended")
    finally:
        watcher.stop()
    if watcher.failure is not None:
        raise SettingsError(str(checked.path), watcher.failure)


def _check_keys(checked: ServeConfig) -> bool:
    """What the graph refuses at its start is refused here before anything starts; answers whether keys are needed."""
    key_hashes, path = hashed_keys(os.environ), checked.settings.api.keys_path
    require_keys(checked.host, checked.settings.api, key_hashes)
    if path is not None:
        read_key_file(path)
    return path is not None or bool(key_hashes)


def _leave_on_signals() -> None:
    """Make Ctrl-C and SIGTERM raise KeyboardInterrupt, on which Serve shuts down.

    After ``ray.init``, which installs a handler of its own for SIGTERM that prints a stack trace; and
    SIGINT too, because a shell that starts us with ``&`` makes us ignore it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)


class StartupWatcher(threading.Thread):
    """Shows what is still starting; ends the process's main thread if the deployment fails."""

    def __init__(self, checked: ServeConfig, console: Console, needs_key: bool = False) -> None:
        super().__init__(name="startup-watcher", daemon=True)
        self.failure: str | None = None
        self._checked, self._console, self._needs_key = checked, console, needs_key
        self._stopped = threading.Event()
        host = "127.0.0.1" if checked.host in ("0.0.0.0", "::") else checked.host
        self._url = f"http://{host}:{checked.port}"
        self._application = next(a["name"] for a in checked.data["applications"] if a["import_path"] == IMPORT_PATH)

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        started_s = time.monotonic()
        with self._console.status("starting Ray") as display:
            while not self._stopped.wait(_POLL_S):
                if self._is_ready():
                    self._announce(time.monotonic() - started_s)
                    return
                state, display_text = self._progress()
                if state in _FAILED:
                    self.failure = display_text
                    os.kill(os.getpid(), signal.SIGINT)
                    return
                slow = time.monotonic() - started_s > _SLOW_S
                display.update(display_text + (" (slow: are there enough free CPUs and GPUs?)" if slow else ""))

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self._url}/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def _progress(self) -> tuple[str, str]:
        """State of the application, and what to show of it."""
        if not ray.is_initialized():
            return "STARTING", "starting Ray"
        overview = serve.status().applications.get(self._application)
        if overview is None:
            return "STARTING", "starting Serve"
        if overview.status in _FAILED:
            return overview.status, last_problem(overview.message)
        waiting = [name for name, d in overview.deployments.items() if d.status != "HEALTHY"]
        return overview.status, f"starting {', '.join(waiting)}" if waiting else "starting the graph"

    def _announce(self, seconds: float) -> None:
        model = self._checked.settings.models[0].name
        body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Write a haiku about rain."}}]}}'
        credentials = '-H "Authorization: Bearer $LMOE_API_KEY" ' if self._needs_key else ""
        self._console.print(f"[bold green]Ready after {seconds:.0f} s:[/] {self._url}/v1", soft_wrap=True)
        self._console.print(
            f"curl {self._url}/v1/chat/completions {credentials}-H 'Content-Type: application/json' -d '{body}'",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def last_problem(message: str) -> str:
    """The line of a deployment's traceback that says what went wrong."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("lmoe_ray.errors.")]
    return ours[-1].removeprefix("lmoe_ray.errors.") if ours else (lines[-1] if lines else "no reason given")
