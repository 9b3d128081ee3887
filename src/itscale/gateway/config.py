"""The operator's file: what is served, to whom, within which limits. TOML, and nothing unknown in it.

Upstream servers and their keys are named here and nowhere else; a key itself never stands in the
file, only where it is read from (`#key_file=PATH` in a model's spec, or the environment).
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from itscale.budget import Price
from itscale.errors import OptionError, did_you_mean
from itscale.gateway.schema import Strict
from itscale.registry import check_specs, parse_method

__all__ = [
    "EMBEDDED",
    "Config",
    "KeyEntry",
    "Limits",
    "ModelEntry",
    "Preset",
    "ScorerEntry",
    "Server",
    "model_name",
    "read_config",
    "single",
]

Positive = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(gt=0)]
Usd = Annotated[float, Field(ge=0)]
EMBEDDED = "embedded"


class Server(Strict):
    """Where it listens and how it behaves."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    concurrency: Positive = 256
    """Requests answered at once. Every limit here is of all workers together: each has an equal share."""
    queue: Annotated[int, Field(ge=0)] = 1024
    """Requests that may wait beyond those; more are answered with 429."""
    max_body_bytes: Positive = 20 * 1024 * 1024
    header_timeout_s: Amount = 10.0
    body_timeout_s: Amount = 60.0
    keep_alive_s: Amount = 75.0
    drain_s: Annotated[float, Field(ge=0)] = 1.0
    """How long after SIGTERM new connections are still taken, so that a balancer can look away."""
    shutdown_s: Amount = 600.0
    """How long accepted requests may go on after that."""
    log_prompts: bool = False
    """Whether the log holds the text of prompts and answers."""
    metrics: bool = True
    page: bool = True
    """Whether `/` is the playground."""
    accounts: str | None = None
    """SQLite file for rates and daily budgets; needed with several workers, kept over restarts."""
    cache_entries: Annotated[int, Field(ge=0)] = 0
    """Answers kept for equal requests that ask for one reproducible answer; 0 is no cache."""
    spans: bool = False
    """Whether requests are OpenTelemetry spans; where they go is for OpenTelemetry's settings to say."""


class Limits(Strict):
    """The most a request may ask for, and what it gets if it does not say."""

    generations: Positive = 64
    tokens: Positive | None = None
    """Generated tokens of one request in all."""
    max_tokens: Positive = 4096
    """Of one answer."""
    choices: Positive = 16
    """The field `n`."""
    seconds: Amount = 120.0
    """Deadline of a request that runs a method."""
    options: bool = True
    """Whether a request may choose its own method (by model name, body or headers); presets otherwise."""


class Priced(Strict):
    """Something whose tokens may have a price."""

    prompt_usd: Usd | None = None
    """Dollars a million tokens."""
    cached_usd: Usd | None = None
    generated_usd: Usd | None = None

    @property
    def price(self) -> Price | None:
        """What its tokens cost; None if the file does not say."""
        if self.prompt_usd is None and self.cached_usd is None and self.generated_usd is None:
            return None
        prompt = self.prompt_usd or 0.0
        cached = prompt if self.cached_usd is None else self.cached_usd
        return Price(prompt_usd=prompt, cached_usd=cached, generated_usd=self.generated_usd or 0.0)


class ModelEntry(Priced):
    """A model, and what is known of it."""

    spec: str
    """As on the command line: `embedded`, `hf:PATH`, `openai:MODEL@URL#key_file=PATH`."""
    scorer: str | None = None
    """The scorer its methods use unless told otherwise."""
    concurrency: Positive = 128
    """Requests to the gateway that use it at once."""
    queue: Annotated[int, Field(ge=0)] = 512
    calls: Positive = 256
    """Calls to its server at once."""
    plain: bool = True
    """Whether it can be asked for by its plain name."""


class ScorerEntry(Priced):
    """A scorer; a judge's tokens may have a price."""

    spec: str


class Preset(Strict):
    """A name that stands for a model, a method and its limits."""

    model: str
    method: str
    scorer: str | None = None
    generations: Positive | None = None
    tokens: Positive | None = None
    scorer_calls: Positive | None = None
    seconds: Amount | None = None
    max_tokens: Positive | None = None
    temperature: Annotated[float, Field(gt=0, le=2)] | None = None


class KeyEntry(Strict):
    """Who may ask, for what, how much. The name of the entry is what logs and metrics say."""

    hash: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    """Made by `itscale serve --new-key`."""
    models: Annotated[list[str], Field(default_factory=lambda: ["*"])]
    """Names this key may ask for; `*` stands for any text."""
    requests_per_minute: Positive | None = None
    tokens_per_day: Positive | None = None
    """Prompt and generated tokens together, a UTC day."""


class Config(Strict):
    """The whole file."""

    server: Server = Server()
    limits: Limits = Limits()
    models: Annotated[dict[str, ModelEntry], Field(min_length=1)]
    scorers: dict[str, ScorerEntry] = Field(default_factory=dict)
    presets: dict[str, Preset] = Field(default_factory=dict)
    keys: dict[str, KeyEntry] = Field(default_factory=dict)

    def check(self) -> None:
        """Names that refer to each other do; methods, models and scorers are of known kinds.

        Raises:
            OptionError: one does not.
        """
        check_specs(
            [model.spec for model in self.models.values()], [one.spec for one in self.scorers.values()]
        )
        for preset in self.presets.values():
            parse_method(preset.method)
        for name, model in self.models.items():
            _known(f"scorer of models.{name}", model.scorer, self.scorers)
        for name, scorer in self.scorers.items():
            if scorer.price is not None and not scorer.spec.startswith("judge:"):
                raise OptionError(f"scorers.{name} has a price, and only a judge's tokens cost; leave it out")
        for name, preset in self.presets.items():
            _known(f"model of presets.{name}", preset.model, self.models)
            _known(f"scorer of presets.{name}", preset.scorer, self.scorers)
            if name in self.models:
                raise OptionError(f"{name!r} is a model and a preset; rename one of them")
        workers, named = self.server.workers, [("server.concurrency", self.server.concurrency)]
        for name, model in self.models.items():
            named += [
                (f"models.{name}.concurrency", model.concurrency),
                (f"models.{name}.calls", model.calls),
            ]
        for what, amount in named:
            if amount < workers:
                raise OptionError(f"{what} is {amount} for {workers} workers; give each at least 1")
        if self.server.workers > 1 and self.keys and self.server.accounts is None:
            raise OptionError(
                "several workers share rates and budgets in a file; set server.accounts = 'accounts.sqlite'"
            )

    def share(self, workers: int) -> Config:
        """What each of so many workers keeps to, so that all of them together keep to this."""
        models = {
            name: model.model_copy(
                update={n: getattr(model, n) // workers for n in ("concurrency", "queue", "calls")}
            )
            for name, model in self.models.items()
        }
        server = self.server.model_copy(
            update={n: getattr(self.server, n) // workers for n in ("concurrency", "queue")}
        )
        return self.model_copy(update={"server": server, "models": models})


def _known(what: str, name: str | None, names: dict[str, Any]) -> None:
    if name is not None and name != "none" and name not in names:
        raise OptionError(did_you_mean(what, name, names))


def read_config(path: Path) -> Config:
    """The operator's file, checked.

    Raises:
        OptionError: it cannot be read, or something in it is unknown or impossible.
    """
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read {path} ({error}); give a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"{path} is no TOML ({error}); correct it") from None
    try:
        config = Config.model_validate(said)
    except ValidationError as error:
        raise OptionError(f"{path}: {_first_fault(error)}") from None
    config.check()
    return config


def _first_fault(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        section, name = first["loc"][0], str(first["loc"][-1])
        kinds: dict[Any, type[Strict]] = {
            "server": Server,
            "limits": Limits,
            "models": ModelEntry,
            "scorers": ScorerEntry,
            "presets": Preset,
            "keys": KeyEntry,
        }
        known = kinds[section].model_fields if len(first["loc"]) > 1 else Config.model_fields
        return did_you_mean(f"setting {place}, where", name, known)
    if first["type"] == "missing":
        return f"{place} is missing; add it"
    return f"{place}: {first['msg']}; change it"


def single(
    model: str,
    scorer: str | None,
    method: str | None,
    host: str,
    port: int,
) -> Config:
    """A configuration without a file: one model, the scorer that goes with it, perhaps one method.

    Raises:
        OptionError: impossible values.
    """
    name = model_name(model)
    judge = scorer or ("embedded" if model == EMBEDDED else "none")
    scorers = {} if judge == "none" else {"scorer": ScorerEntry(spec=judge)}
    presets = {} if method is None else {"default": Preset(model=name, method=method)}
    try:
        server = Server(host=host, port=port)
    except ValidationError as error:
        raise OptionError(f"--{_first_fault(error)}") from None
    config = Config(
        server=server,
        models={name: ModelEntry(spec=model, scorer="scorer" if scorers else None)},
        scorers=scorers,
        presets=presets,
    )
    config.check()
    return config


def model_name(spec: str) -> str:
    """What a model is called where nobody named it: `qwen` of `openai:qwen@http://...`."""
    kind, _, rest = spec.partition(":")
    if kind == "openai":
        return rest.split("@http")[0] or "default"
    return Path(rest).name if rest else kind
