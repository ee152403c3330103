"""``lmoe serve`` and ``lmoe check``: ``serve run`` with everything around it that a user would want.

``serve run`` itself does the work, in this process, so Ctrl-C and draining are Serve's own. Around it:
the file is checked strictly, the port is tried, Ray's environment is set before Ray is imported, a
display shows what is still starting, and a failed deployment ends the command instead of hanging it.
"""

from __future__ import annotations

import socket
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from lmoe_ray.errors import SettingsError
from lmoe_ray.serving.environment import prepare_environment

if TYPE_CHECKING:
    from lmoe_ray.serving.config_check import ServeConfig

console = Console()

CONFIG_NAME = "serve_config.yaml"
DEFAULT_PORT = 8000
ConfigArgument = Annotated[
    Path | None,
    typer.Argument(help=f"Serve configuration; else ./{CONFIG_NAME}, else the one shipped with lmoe_ray."),
]


def serve(
    config: ConfigArgument = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on, instead of the file's.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port, instead of the file's.")] = None,
) -> None:
    """Check the configuration, start the graph, and serve until Ctrl-C."""
    path = config or default_config()
    prepare_environment(port or _port_in(path))
    checked = _checked(path, host, port)
    _require_free(checked.host, checked.port)
    if checked.settings.api.insecure:
        console.print(f"[yellow]Listening on {checked.host}: whoever reaches port {checked.port} can use the API.")
    from lmoe_ray.serving.launch import run_graph

    with tempfile.TemporaryDirectory(prefix="lmoe-serve-") as folder:
        final = Path(folder) / CONFIG_NAME
        final.write_text(yaml.safe_dump(checked.data, sort_keys=False))
        run_graph(final, checked, console)


def check(
    target: Annotated[Path | None, typer.Argument(help="Serve configuration or LMoE package folder.")] = None,
    allow_pickle: Annotated[bool, typer.Option(help="Accept adapter_model.bin in a package.")] = False,
    routing: Annotated[
        bool, typer.Option("--routing", help="Examine routing samples and say what to improve.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --routing: a JSON line per package.")] = False,
) -> None:
    """Check a configuration, or an LMoE package, and say what is in it."""
    path = target or default_config()
    if routing:
        _check_routing(path, allow_pickle, as_json)
        return
    if as_json:
        raise typer.BadParameter("needs --routing", param_hint="--json")
    if path.is_dir():
        _check_package(path, allow_pickle)
        return
    from lmoe_ray.pretrained.package_source import load_package_from
    from lmoe_ray.serving.config_check import deployment_names

    checked = _checked(path, None, None)
    for model in checked.settings.models:
        package = load_package_from(model)
        names = package.names if package else ()
        for pool in model.pools:
            console.print(f"pool {pool.name}: {', '.join(pool.experts_of(names)) or 'the base model alone'}")
    console.print(f"deployments: {', '.join(deployment_names(checked.settings))}")
    console.print(f"[green]{path} is fine.")


def default_config() -> Path:
    """The configuration of this folder, else the one shipped with the package."""
    shipped = Path(str(files("lmoe_ray")))
    candidates = (Path(CONFIG_NAME), shipped / CONFIG_NAME, shipped.parent / CONFIG_NAME)
    return next(path for path in candidates if path.is_file())


def _port_in(path: Path) -> int:
    """The file's port, read without Ray and without complaint: the strict check comes after."""
    try:
        options = yaml.safe_load(path.read_text()).get("http_options") or {}
        return int(options.get("port", DEFAULT_PORT))
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        return DEFAULT_PORT


def _checked(path: Path, host: str | None, port: int | None) -> ServeConfig:
    from lmoe_ray.serving.config_check import check_config

    return check_config(path).listening_on(host, port)


def _require_free(host: str, port: int) -> None:
    """Two Serve instances share a port without an error and answer in turns, so look before we start.

    Raises:
        SettingsError: the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            raise SettingsError(
                "http_options", f"cannot listen on {host}:{port}: {exc.strerror}; stop what runs there or use --port"
            ) from exc


def _check_package(path: Path, allow_pickle: bool) -> None:
    from lmoe_ray.domain.package import load_package

    package = load_package(path, allow_pickle=allow_pickle)
    manifest = package.manifest
    table = Table("expert", "rank", "targets", "samples", "digest", "description", title=str(path))
    for expert in package.experts:
        targets: Any = expert.lora.targets
        shown = targets if isinstance(targets, str) else str(len(targets))
        table.add_row(
            expert.name, str(expert.lora.max_rank), shown, str(len(expert.samples)), expert.digest, expert.description
        )
    console.print(table)
    console.print(
        f"base: {manifest.base or 'any'} · prompt format: {manifest.prompt_format} · "
        f"fallback: {manifest.fallback or 'the base model'} · licence: {manifest.licence or 'unknown'}"
    )


def _check_routing(path: Path, allow_pickle: bool, as_json: bool) -> None:
    """Exit status 1 for errors; advice alone is 0."""
    from lmoe_ray.cli.doctor_report import examine_packages
    from lmoe_ray.domain.package import load_package
    from lmoe_ray.pretrained.package_source import DEMO, load_package_from, package_folder
    from lmoe_ray.routing.embedder import CACHE_DIR
    from lmoe_ray.settings import RouterSettings

    if path.is_dir() or str(path) == DEMO:
        packages = [load_package(package_folder(str(path)), allow_pickle=allow_pickle)]
        router, cache_dir = RouterSettings(), CACHE_DIR.expanduser()
    else:
        settings = _checked(path, None, None).settings
        packages = [package for model in settings.models if (package := load_package_from(model))]
        router, cache_dir = settings.router, settings.cache_path
    if not packages:
        raise SettingsError(str(path), "no model has a package, so there are no routing samples; set models.package")
    if not examine_packages(packages, router, cache_dir, console, as_json=as_json):
        raise typer.Exit(1)
