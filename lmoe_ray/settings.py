"""Every knob, with unit and default: the ``args`` of ``serve_config.yaml``, and nothing else.

Unknown keys are errors, because Ray Serve ignores them silently. Nothing writes to settings after
they are read, and nothing below ``serving`` reads the environment.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lmoe_ray.errors import SettingsError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,95}")
Name = Annotated[str, Field(pattern=rf"^{NAME.pattern}$")]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class EngineSettings(_Strict):
    """One replica's engine."""

    dtype: Annotated[
        Literal["auto", "bfloat16", "float16", "float32"],
        Field(description="auto: bfloat16 where the device computes in it, else float32"),
    ] = "auto"
    quantization: Annotated[
        Literal["none", "int8", "nf4"],
        Field(description="keep the base's inner weights in 8 or 4 bits; needs lmoe_ray[bnb], and is meant for a GPU"),
    ] = "none"
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Field(description="auto: cuda where Ray gave the replica a GPU, else cpu")
    ] = "auto"
    max_model_len: Annotated[
        int, Field(ge=16, description="tokens of prompt plus answer; the model's own limit caps it")
    ] = 4096
    max_num_seqs: Annotated[PositiveInt, Field(description="sequences decoded together")] = 32
    max_batch_tokens: Annotated[
        PositiveInt, Field(description="tokens in one forward pass: decoding sequences first, then prompt chunks")
    ] = 256
    step_target_ms: Annotated[
        PositiveFloat,
        Field(description="how long a step may last while answers stream: bounds prompt tokens beside them"),
    ] = 300.0
    max_waiting: Annotated[PositiveInt, Field(description="requests that may queue before 429 is answered")] = 256
    max_adapters: Annotated[PositiveInt, Field(description="adapters on the device at once, per replica")] = 16
    max_host_adapters: Annotated[
        PositiveInt, Field(description="adapters kept in host memory; the least recently used are read from disk again")
    ] = 64
    max_lora_rank: Annotated[
        int, Field(ge=1, le=512, description="widest adapter accepted; narrower ones are padded")
    ] = 64
    num_threads: Annotated[
        int, Field(ge=0, description="CPU threads for the forward pass; 0: from the pool's num_cpus")
    ] = 0
    cpu_cache_gib: Annotated[
        PositiveFloat, Field(description="keys and values on a CPU, GiB; a GPU gives what gpu_fraction leaves")
    ] = 2.0
    use_kernels: Annotated[
        bool, Field(description="compile kernels for this CPU at the first start; false: torch's own operators only")
    ] = True
    adapter_check: Annotated[
        Literal["refuse", "warn"],
        Field(description="what to do with an adapter that does not change the base's logits"),
    ] = "refuse"

    @model_validator(mode="after")
    def _one_step_fits_every_running_sequence(self) -> Self:
        if self.max_batch_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_batch_tokens={self.max_batch_tokens} is below max_num_seqs={self.max_num_seqs}: "
                "a decode step needs one token per sequence"
            )
        return self


class PoolSettings(_Strict):
    """One expert deployment: which experts, how many replicas, which share of a machine."""

    name: Annotated[Name, Field(description="the deployment is called Expert-<name>")]
    experts: Annotated[tuple[Name, ...], Field(description="experts served here; empty: all of the package")] = ()
    num_cpus: Annotated[PositiveFloat, Field(description="CPUs Ray reserves per replica, and the engine's threads")] = (
        1.0
    )
    gpu_fraction: Annotated[
        float, Field(ge=0, description="GPUs per replica: Ray's num_gpus, and below 1 the engine's share of GPU memory")
    ] = 0.0
    min_replicas: Annotated[int, Field(ge=0, description="0: scale to zero when idle")] = 1
    max_replicas: PositiveInt = 1
    target_ongoing_requests: Annotated[
        PositiveFloat, Field(description="requests per replica that autoscaling aims at")
    ] = 16.0
    engine: EngineSettings = EngineSettings()

    def experts_of(self, expert_names: tuple[str, ...]) -> tuple[str, ...]:
        """Those of a package's experts that this pool serves.

        Raises:
            SettingsError: the pool names an expert the package does not have.
        """
        if strangers := sorted(set(self.experts) - set(expert_names)):
            known = ", ".join(expert_names) or "none"
            raise SettingsError(f"pool {self.name}", f"the package has no expert {strangers[0]!r}; it has: {known}")
        return self.experts or expert_names

    @model_validator(mode="after")
    def _replicas_in_order(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas={self.min_replicas} exceeds max_replicas={self.max_replicas}")
        if self.gpu_fraction > 1 and not self.gpu_fraction.is_integer():
            raise ValueError(f"gpu_fraction={self.gpu_fraction:g}: above 1 only whole GPUs can be given")
        return self


class ModelSettings(_Strict):
    """One base model with its LMoE package and pools."""

    name: Annotated[Name, Field(description="the model's name on the wire")]
    source: Annotated[
        str,
        Field(
            min_length=1,
            description="builtin:smollm2-135m-instruct, a local folder, or a hub id such as meta-llama/Llama-2-7b-hf",
        ),
    ]
    revision: Annotated[str | None, Field(description="hub revision; not for builtin and folders")] = None
    package: Annotated[
        str | None, Field(description="builtin:demo or an LMoE package folder; null: the base model alone")
    ] = None
    allow_pickle: Annotated[
        bool, Field(description="open adapter_model.bin (weights only) if there is no safetensors")
    ] = False
    base_precision: Annotated[
        Literal["as-is", "nf4-dequant"],
        Field(description="nf4-dequant: round the base through NF4 as QLoRA saw it in training"),
    ] = "as-is"
    aliases: Annotated[tuple[str, ...], Field(description="further names clients may use for this model")] = ()
    pools: Annotated[tuple[PoolSettings, ...], Field(min_length=1)]


class RouterSettings(_Strict):
    """How the expert is chosen when the client did not."""

    kind: Annotated[
        Literal["similarity", "agent", "hybrid"],
        Field(description="similarity: routing samples; agent: ask the model; hybrid: ask it below the threshold"),
    ] = "similarity"
    embedder: Annotated[
        str, Field(description="builtin:all-minilm-l6-v2, a local folder, or a hub id such as thenlper/gte-small")
    ] = "builtin:all-minilm-l6-v2"
    embedder_revision: str | None = None
    embedding: Annotated[
        Literal["encoder", "static"],
        Field(
            description="encoder: the embedder reads the text; static: a table learnt from it once, in minutes, is "
            "looked up: a fifth of the time, and less accurate"
        ),
    ] = "encoder"
    scoring: Annotated[
        Literal["fused", "density", "airoboros"],
        Field(
            description="fused: neighbours, a linear head on words and form, and known tasks; density: weighted "
            "neighbours; airoboros: least mean distance to k samples"
        ),
    ] = "fused"
    k: Annotated[PositiveInt, Field(description="neighbours looked at; per expert with airoboros scoring")] = 20
    max_samples: Annotated[
        PositiveInt, Field(description="routing samples used per expert; a seeded choice if there are more")
    ] = 1000
    max_tokens: Annotated[int, Field(ge=16, description="tokens of a query that are embedded")] = 256
    threshold: Annotated[
        Fraction, Field(description="confidence below which the fallback answers; 0 never abstains")
    ] = 0.0
    precision: Annotated[
        float | None,
        Field(gt=0, lt=1, description="share of right ones wanted in what is not left to the fallback; sets threshold"),
    ] = None
    calibration: Annotated[
        str | None, Field(min_length=1, description="file of lmoe calibrate, which sets threshold; ~ is expanded")
    ] = None
    min_familiarity: Annotated[
        Fraction,
        Field(
            description="familiarity below which the fallback answers; 0.5 leaves out what 99 % of the samples are "
            "more usual than, 0 nothing"
        ),
    ] = 0.5
    watch_s: Annotated[
        float,
        Field(ge=0, description="seconds between looks for changed samples and descriptions in packages; 0: never"),
    ] = 2.0
    seed: int = 11422
    show_samples: Annotated[bool, Field(description="whether POST /v1/route may show sample texts")] = True
    num_cpus: PositiveFloat = 0.5
    num_threads: Annotated[PositiveInt, Field(description="CPU threads of the embedder")] = 1
    num_replicas: PositiveInt = 1

    @property
    def calibration_path(self) -> Path | None:
        return None if self.calibration is None else Path(self.calibration).expanduser()

    @model_validator(mode="after")
    def _thresholds_fit(self) -> Self:
        given = {"threshold": self.threshold > 0, "precision": self.precision, "calibration": self.calibration}
        if len(named := [name for name, value in given.items() if value]) > 1:
            raise ValueError(f"{' and '.join(named)} both say when to abstain; keep one")
        if self.kind == "hybrid" and not named:
            raise ValueError("hybrid asks below a threshold: set precision, calibration or threshold")
        if self.kind == "agent" and (self.precision or self.calibration):
            raise ValueError("precision and calibration are about samples, which an agent does not read; set threshold")
        if self.scoring != "fused" and (self.precision or self.calibration):
            raise ValueError(
                f"precision and calibration are measured with scoring=fused, not {self.scoring}; set threshold"
            )
        return self


class ApiSettings(_Strict):
    """The HTTP surface."""

    unknown_model: Annotated[
        Literal["error", "default"], Field(description="an unknown model name: 404, or served by the first model")
    ] = "error"
    max_body_bytes: PositiveInt = 4 * 1024 * 1024
    max_messages: PositiveInt = 2048
    max_headers: Annotated[
        PositiveInt, Field(description="headers of one request; HAProxy itself takes no more than 101")
    ] = 64
    keys_file: Annotated[
        str | None,
        Field(
            min_length=1,
            description="YAML of hashed API keys, made by lmoe keys; ~ is expanded on each node that has an ingress; "
            "null: no key is needed, unless LMOE_API_KEYS is set where the graph is built",
        ),
    ] = None
    insecure: Annotated[
        bool, Field(description="start although http_options.host can be reached from outside and no key is needed")
    ] = False
    quota_storage: Annotated[
        str,
        Field(
            min_length=1,
            description="where quotas are counted: in each ingress replica, or async+redis://host:6379 for all of them",
        ),
    ] = "async+memory://"
    log_prompts: Annotated[
        bool, Field(description="write what is asked into the log; otherwise it never gets there")
    ] = False
    token_timeout_s: Annotated[PositiveFloat, Field(description="longest wait for the next token")] = 300.0
    cors_origins: tuple[str, ...] = ("*",)
    num_cpus: PositiveFloat = 0.25
    num_replicas: PositiveInt = 1
    max_ongoing_requests: PositiveInt = 512

    @property
    def keys_path(self) -> Path | None:
        return None if self.keys_file is None else Path(self.keys_file).expanduser()


class Settings(_Strict):
    """``args`` of the application in ``serve_config.yaml``."""

    models: Annotated[tuple[ModelSettings, ...], Field(min_length=1)]
    router: RouterSettings = RouterSettings()
    api: ApiSettings = ApiSettings()
    cache_dir: Annotated[str, Field(description="converted models and routing indexes; ~ is expanded on each node")] = (
        "~/.cache/lmoe_ray"
    )

    @property
    def cache_path(self) -> Path:
        return Path(self.cache_dir).expanduser()

    @model_validator(mode="after")
    def _names_are_addresses(self) -> Self:
        models = [m.name for m in self.models]
        pools = [p.name for m in self.models for p in m.pools]
        for what, names in (("model", models), ("pool", pools)):
            if repeated := sorted({n for n in names if names.count(n) > 1}):
                raise ValueError(f"{what} names must differ; repeated: {', '.join(repeated)}")
        wire_names = models + [alias for m in self.models for alias in m.aliases]
        if repeated := sorted({n for n in wire_names if wire_names.count(n) > 1}):
            raise ValueError(f"a name on the wire leads to one model; repeated: {', '.join(repeated)}")
        return self


Checked = TypeVar("Checked", bound=_Strict)


def parse_settings(args: Any, place: str = "args") -> Settings:
    """Check a mapping against :class:`Settings`.

    Raises:
        SettingsError: naming the first wrong place, its problem, and how many more there are.
    """
    return _parse(Settings, args, place)


def parse_router(args: Any, place: str = "router") -> RouterSettings:
    """Check a mapping against :class:`RouterSettings`. Raises as :func:`parse_settings`."""
    return _parse(RouterSettings, args, place)


def _parse(schema: type[Checked], args: Any, place: str) -> Checked:
    try:
        return schema.model_validate(args)
    except ValidationError as exc:
        first, *rest = exc.errors(include_url=False)
        where = ".".join(str(part) for part in (place, *first["loc"]))
        problem = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            problem = "no such setting; is it misspelt?"
        elif first["type"] != "value_error":
            problem += f" (got {str(first['input'])[:80]!r})"
        more = f" (and {len(rest)} more)" if rest else ""
        raise SettingsError(where, problem + more) from exc
