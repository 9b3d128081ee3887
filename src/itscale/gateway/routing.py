"""From what a request names to what is done: a plan.

    qwen                          the model itself
    best-of-n/qwen                a method on it
    particle-filter:n=32/qwen     ... with options; n is the budget's generations
    careful                       a preset of the operator's

Headers (`X-Itscale-Method: beam:width=4`, `X-Itscale-N: 16`, `-Scorer`, `-Tokens`, `-Seconds`) say
the same, the body's `itscale` object stands above them, and all of it above the name. What goes
beyond the operator's limits is refused, never cut down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from pydantic import ValidationError

from itscale.budget import Budget
from itscale.errors import OptionError, did_you_mean
from itscale.gateway.config import Config, Limits, Preset
from itscale.gateway.faults import Fault
from itscale.gateway.schema import ItscaleOptions
from itscale.methods.base import Method
from itscale.registry import METHODS, parse_method

__all__ = ["Plan", "names_of", "options_in", "plan_for", "within_limits"]

_HEADERS = {
    "x-itscale-method": "method",
    "x-itscale-scorer": "scorer",
    "x-itscale-n": "n",
    "x-itscale-tokens": "tokens",
    "x-itscale-scorer-calls": "scorer_calls",
    "x-itscale-seconds": "seconds",
}


_NOTHING_SAID = ItscaleOptions.model_validate({})


@dataclass(frozen=True)
class Plan:
    """What a request is to be answered with."""

    name: str
    """As the request names it."""
    model: str
    """In the configuration."""
    method: Method | None
    """None: the model itself."""
    scorer: str | None
    """In the configuration."""
    budget: Budget
    max_tokens: int
    """Of one answer, at most."""
    options: ItscaleOptions

    @property
    def label(self) -> str:
        """What metrics and logs call the method."""
        return self.method.name if self.method is not None else "none"


def options_in(headers: Mapping[str, str], body: ItscaleOptions | None) -> ItscaleOptions:
    """What headers and body say together; the body has the last word.

    Raises:
        Fault: a header that is unknown, or whose value is none.
    """
    said: dict[str, object] = {}
    for header, value in headers.items():
        if not header.startswith("x-itscale-"):
            continue
        if header not in _HEADERS:
            known = did_you_mean("header", header, _HEADERS)
            raise Fault(400, f"{known}; leave it out", param=header, code="unknown_parameter")
        name = _HEADERS[header]
        try:
            whole = name in ("n", "tokens", "scorer_calls")
            number = int(value) if whole else float(value) if name == "seconds" else value
            said[name] = getattr(ItscaleOptions.model_validate({name: number}), name)
        except (ValueError, ValidationError):
            raise Fault(
                400, f"{header} is {value[:50]!r}; give a positive number", param=header, code="invalid_value"
            ) from None
    if not said:
        return body or _NOTHING_SAID
    given = body.model_dump(exclude_unset=True) if body is not None else {}
    return ItscaleOptions(**{**said, **given})


def names_of(config: Config) -> list[str]:
    """Every name a request may ask for, methods without options."""
    plain = [name for name, model in config.models.items() if model.plain]
    methods = [
        f"{method}/{name}"
        for name, model in config.models.items()
        for method, kind in METHODS.items()
        if config.limits.options and _judged(config, model.scorer, kind)
    ]
    return [*config.presets, *plain, *methods]


def _judged(config: Config, scorer: str | None, method: type[Method]) -> bool:
    """Whether a method has the scorer it needs, as far as names tell."""
    if method.scorer_kind == "none":
        return True
    if scorer is None or scorer == "none":
        return False
    compares = "mode=compare" in config.scorers[scorer].spec
    return compares == (method.scorer_kind == "comparison")


def plan_for(config: Config, name: str, options: ItscaleOptions) -> Plan:
    """The plan a name and options make, within the limits.

    Raises:
        Fault: 404 for an unknown name, 400 for an option that cannot be or is beyond a limit.
    """
    preset = _preset(config, name)
    chosen = options.method is not None or options.scorer is not None
    if chosen and not config.limits.options:
        raise Fault(
            400,
            "this gateway serves presets as they are; leave itscale.method and itscale.scorer out",
            param="itscale.method",
            code="option_not_allowed",
        )
    ours = name in config.presets and options.method is None  # the operator's words, not the client's
    spec, param = (options.method, "itscale.method") if options.method else (preset.method, "model")
    scorer = options.scorer or preset.scorer or config.models[preset.model].scorer
    if scorer is not None and scorer != "none" and scorer not in config.scorers:
        raise Fault(
            400,
            did_you_mean("scorer", scorer, [*config.scorers, "none"]),
            param="itscale.scorer",
            code="invalid_value",
        )
    try:
        method, generations, written = _method(spec)
    except OptionError as error:
        raise Fault(400, str(error), param=param, code="invalid_option") from None
    if method is not None and preset.temperature is not None:
        method = replace(method, temperature=preset.temperature)
    limits = config.limits
    longest = preset.max_tokens or (written if ours else None) or limits.max_tokens
    if method is not None:
        if not ours:
            _within("max_tokens", written, longest, param)
        usual = (preset.max_tokens if ours or written is None else None) or method.max_tokens
        method = replace(method, max_tokens=min(usual, longest))
    wanted = options.n or generations or preset.generations
    most = preset.generations or limits.generations
    _within("itscale.n", wanted, most)
    _within("itscale.scorer_calls", options.scorer_calls, preset.scorer_calls)
    _within("itscale.tokens", options.tokens, preset.tokens or limits.tokens)
    _within("itscale.seconds", options.seconds, preset.seconds or limits.seconds)
    budget = Budget(
        generations=wanted or min(16, most),
        tokens=options.tokens or preset.tokens or limits.tokens,
        scorer_calls=options.scorer_calls or preset.scorer_calls,
        seconds=options.seconds or preset.seconds or limits.seconds,
    )
    if method is None or method.scorer_kind == "none":
        scorer = None  # nobody asks it
    return Plan(name, preset.model, method, scorer, budget, longest, options)


def _preset(config: Config, name: str) -> Preset:
    """What a model name stands for, in the form of a preset; a plain model has the method ''."""
    if name in config.presets:
        return config.presets[name]
    if name in config.models:
        if not config.models[name].plain:
            raise Fault(
                404, f"{name!r} is served through presets only", param="model", code="model_not_found"
            )
        return Preset(model=name, method="")
    spec, slash, model = name.partition("/")
    if slash and spec.partition(":")[0] in METHODS and model in config.models and config.limits.options:
        return Preset(model=model, method=spec)
    if slash and model in config.models and config.limits.options:
        hint = did_you_mean("method", spec.partition(":")[0], METHODS)
    else:
        hint = did_you_mean("model", name, [*config.presets, *config.models])
    raise Fault(404, f"{hint}; GET /v1/models lists what is served", param="model", code="model_not_found")


@lru_cache(maxsize=1024)
def _method(spec: str) -> tuple[Method | None, int | None, int | None]:
    """The method of a spec, its option n, which is the budget's, and its max_tokens where it states them.

    Raises:
        OptionError: there is no such method, or it has no such option.
    """
    if not spec:
        return None, None, None
    name, _, rest = spec.partition(":")
    parts = rest.split(",") if rest else []
    own = [part for part in parts if part.partition("=")[0].strip() == "n"]
    others = [part for part in parts if part not in own]
    method = parse_method(f"{name}:{','.join(others)}" if others else name)
    try:
        values = [int(part.partition("=")[2]) for part in own]
    except ValueError:
        raise OptionError(f"n in {spec!r} is no whole number; write {name}:n=16") from None
    if len(values) > 1 or any(value < 1 for value in values):
        raise OptionError(f"n in {spec!r} must be one number from 1; write {name}:n=16")
    stated = {part.partition("=")[0].strip().replace("-", "_") for part in others}
    return method, values[0] if values else None, method.max_tokens if "max_tokens" in stated else None


def _within(what: str, wanted: float | None, limit: float | None, param: str | None = None) -> None:
    if wanted is not None and limit is not None and wanted > limit:
        raise Fault(
            400,
            f"{what} is {wanted:g}, and this gateway allows {limit:g}; ask for less",
            param=param or what,
            code="limit_exceeded",
        )


def within_limits(limits: Limits, plan: Plan, choices: int, max_tokens: int | None) -> None:
    """Hold a request's n and max_tokens against the limits. Raises Fault."""
    _within("n", choices, limits.choices)
    _within("max_tokens", max_tokens, plan.max_tokens)
