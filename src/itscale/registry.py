"""From names to things: the specs of the command line, the bench and (later) the gateway.

    method   NAME[:key=value,...]   `majority`, `beam:width=4,scope=global`
    model    KIND[:REST]            `embedded`, `hf:PATH`, `openai:MODEL@URL`
    scorer   KIND[:REST]            `embedded`, `hf:PATH`, `none`
    task     NAME or FORMAT:FILE    `countdown`, `gsm8k:test.jsonl`

A method's options are the fields of its dataclass, so this module knows none of them by name. In a text a
comma is written %2C, and any other character may be percent-encoded too.
Whatever needs torch is imported inside its loader: naming and listing things stays light.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints
from urllib.parse import quote, unquote

from itscale.embedded import PROCESS_SCORER, REASONER
from itscale.errors import OptionError, TaskError, did_you_mean
from itscale.methods.base import Method
from itscale.methods.catalogue import METHODS
from itscale.models.base import Model
from itscale.scorers.answers import AnswerKind
from itscale.scorers.base import Scorer
from itscale.scorers.prm_kinds import PRM_KINDS
from itscale.scorers.specs import SERVED_SCORERS, scorer_options
from itscale.tasks.base import GeneratedTask, Task
from itscale.tasks.chain import Chain
from itscale.tasks.countdown import Countdown
from itscale.tasks.formats import FORMATS

__all__ = [
    "COMMON_OPTIONS",
    "METHODS",
    "MODELS",
    "SCORERS",
    "TASKS",
    "Kind",
    "check_specs",
    "load_model",
    "load_scorer",
    "load_task",
    "method_label",
    "method_options",
    "parse_method",
    "split_methods",
]

Loaded = TypeVar("Loaded")

TASKS: Mapping[str, type[GeneratedTask]] = {task.name: task for task in (Countdown, Chain)}

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "none"}


@dataclass(frozen=True)  # no slots: Python 3.11 cannot build a frozen slotted `Kind[Model](...)`
class Kind(Generic[Loaded]):
    """One kind of model or scorer spec: how it is written, what it is, how it is loaded."""

    form: str
    summary: str
    load: Callable[[str], Loaded]

    @property
    def name(self) -> str:
        """What stands before the colon."""
        return self.form.partition(":")[0]

    @property
    def takes_rest(self) -> bool:
        """Whether something must follow the colon."""
        return ":" in self.form


def parse_method(spec: str) -> Method:
    """A method from `NAME` or `NAME:key=value,...`; keys in kebab or snake case.

    Raises:
        OptionError: an unknown name or option, or a value the option cannot have.
    """
    name, colon, rest = spec.strip().partition(":")
    if name not in METHODS:
        raise OptionError(did_you_mean("method", name, METHODS))
    method = METHODS[name]
    if colon and not rest:
        raise OptionError(f"method {spec!r} ends in a colon; write {name}:option=value or just {name}")
    types_of = dict(_options(method))
    options: dict[str, Any] = {}
    for part in rest.split(",") if rest else ():
        key, equals, text = part.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise OptionError(
                f"option {part!r} of {name} has no value; write {part.strip() or 'option'}=VALUE"
            )
        if key == "n" and key not in types_of:  # as the gateway's names of models have it
            raise OptionError(
                f"n is no option of {name}, it is the budget; give {name} and --budget {text.strip() or 16} "
                "(in Python Budget(generations=...))"
            )
        if key not in types_of:
            raise OptionError(did_you_mean(f"option of {name}", key, types_of))
        if key in options:
            raise OptionError(f"option {key!r} of {name} is given twice; keep one")
        options[key] = _convert(f"{name} option {key}", types_of[key], text.strip())
    return method(**options)


def method_label(method: Method) -> str:
    """The shortest spec of a method: its name and the options that differ from their defaults.

    `parse_method(method_label(m)) == m`, and equal methods have equal labels.
    """
    changed = [
        f"{field.name}={_written(getattr(method, field.name))}"
        for field in fields(method)
        if field.default is MISSING or getattr(method, field.name) != field.default
    ]
    return f"{method.name}:{','.join(changed)}" if changed else method.name


def _written(value: Any) -> str:
    """A value as a spec has it: a text must neither end the option nor lose spaces at its ends."""
    return re.sub(r"[%,\n]|^\s|\s$", lambda found: quote(found[0]), str(value))


def split_methods(text: str) -> list[str]:
    """The specs of a comma-separated list whose options contain commas themselves.

    A part with an `=` belongs to the method before it: `beam:width=4,scope=global,majority` is two.

    Raises:
        OptionError: an empty list or part, or an option before any method.
    """
    specs: list[str] = []
    for part in text.split(","):
        if not part.strip():
            raise OptionError(f"methods {text!r} has an empty part; write names separated by single commas")
        if "=" not in part or ":" in part.partition("=")[0]:
            specs.append(part.strip())
        elif not specs:
            raise OptionError(f"methods {text!r} begins with an option; write METHOD:{part.strip()}")
        else:
            specs[-1] += ("," if ":" in specs[-1] else ":") + part.strip()
    return specs


def method_options(method: type[Method]) -> list[tuple[str, str, str]]:
    """For each option of a method: its name, what it may be, its default, as text."""
    defaults = {field.name: field.default for field in fields(method)}
    return [
        (name, _allowed(kind), "" if defaults[name] is MISSING else str(defaults[name]))
        for name, kind in _options(method)
    ]


def load_task(spec: str) -> Task:
    """A task from its name, or from `FORMAT:FILE`.

    Raises:
        TaskError: there is no such task or format, or its file cannot be read.
        OptionError: what the task needs is not there.
    """
    name, colon, source = spec.partition(":")
    if colon and name in FORMATS:
        if not source:
            raise TaskError(f"task {spec!r} names no file; write {FORMATS[name].form}")
        return FORMATS[name].load(source)
    if spec in FORMATS:
        raise TaskError(f"task {spec!r} is read from a file; write {FORMATS[spec].form}")
    if spec not in TASKS:
        raise TaskError(did_you_mean("task", spec, [*TASKS, *(form.form for form in FORMATS.values())]))
    return TASKS[spec]()


def check_specs(models: Iterable[str], scorers: Iterable[str]) -> None:
    """That the specs are of known kinds, before anything is loaded or written.

    Raises:
        OptionError: one is not.
    """
    for spec in models:
        _kind_of("model", spec, MODELS)
    for spec in scorers:
        _kind_of("scorer", spec, SCORERS)


def load_model(spec: str) -> Model:
    """A model from its spec, ready to be asked; close it after use.

    Raises:
        OptionError: the spec is of no known kind, its path does not exist, or the packages it needs
            are not installed.
        ModelError: the checkpoint cannot be read.
    """
    kind, rest = _kind_of("model", spec, MODELS)
    return kind.load(rest)


def load_scorer(spec: str) -> Scorer | None:
    """A scorer from its spec (None for `none`); close it after use.

    Raises:
        OptionError: the spec is of no known kind, its path does not exist, or the packages it needs
            are not installed.
        ModelError: the checkpoint cannot be read.
    """
    kind, rest = _kind_of("scorer", spec, SCORERS)
    return kind.load(rest)


def _kind_of(what: str, spec: str, kinds: Mapping[str, Kind[Loaded]]) -> tuple[Kind[Loaded], str]:
    name, colon, rest = spec.strip().partition(":")
    if name not in kinds:
        raise OptionError(f"{did_you_mean(what, name, kinds)}; see: itscale list {what}s")
    kind = kinds[name]
    if kind.takes_rest != bool(rest) or (colon and not rest):
        raise OptionError(f"{what} {spec!r} is not of the form {kind.form}; see: itscale list {what}s")
    return kind, rest


def _options(method: type[Method]) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(method)
    return ((field.name, hints[field.name]) for field in fields(method) if field.init)


def _members(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the one type; values that only Python can give are left out."""
    members = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return tuple(member for member in members if member is not AnswerKind)


def _allowed(kind: Any) -> str:
    """What may be written for a type, in words."""
    return " or ".join(
        " | ".join(map(str, get_args(member))) if get_origin(member) is Literal else _WORDS[member]
        for member in _members(kind)
    )


def _convert(what: str, kind: Any, text: str) -> Any:
    """`text` as a value of `kind`: int, float, bool, str, None, a Literal, or a union of these."""
    for member in _members(kind):
        try:
            return _converted(member, text)
        except ValueError:
            continue
    raise OptionError(f"{what} is {text!r}; give {_allowed(kind)}")


def _converted(kind: Any, text: str) -> Any:
    if get_origin(kind) is Literal:
        by_text = {str(value): value for value in get_args(kind)}
        if text in by_text:
            return by_text[text]
    elif kind is type(None):
        if text == "none":
            return None
    elif kind is bool:
        if text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
    elif kind is str:
        return unquote(text)
    elif kind in (int, float):
        return kind(text)
    else:
        raise TypeError(f"a method option of type {kind} cannot be written as text")
    raise ValueError(text)


def _checkpoint(path: str) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise OptionError(
            f"there is no checkpoint folder at {path!r}; give the folder that holds config.json"
        )
    return folder


def _local_model(folder: Path) -> Model:
    from itscale.models.local import LocalModel

    return LocalModel.load(folder)


def _gguf_model(path: str) -> Model:
    from itscale.models.gguf import GGUFModel

    file = Path(path).expanduser()
    if not file.is_file():
        raise OptionError(f"there is no GGUF file at {path!r}; give the path of a .gguf file")
    return GGUFModel.load(file)


def _vllm_model(path: str) -> Model:
    from itscale.models.vllm import VLLMModel

    return VLLMModel.load(_checkpoint(path))


def _server_model(address: str) -> Model:
    from itscale.models.openai import OpenAIModel

    return OpenAIModel.load(address)


def _local_scorer(text: str) -> Scorer:
    from itscale.scorers.prm import LocalProcessScorer

    path, options = (text, {}) if Path(text).is_dir() else scorer_options("hf", text, ("kind",))
    return LocalProcessScorer.load(_checkpoint(path), kind=options.get("kind"))


def _judge(text: str) -> Scorer:
    from itscale.scorers.judge import judge_of

    return judge_of(text, load_model)


MODELS: Mapping[str, Kind[Model]] = {
    kind.name: kind
    for kind in (
        Kind[Model](
            "embedded",
            "the shipped reasoner: knows the embedded tasks and nothing else",
            lambda _: _local_model(REASONER),
        ),
        Kind[Model](
            "hf:PATH",
            "a causal language model in a Hugging Face checkpoint folder, run in this process",
            lambda path: _local_model(_checkpoint(path)),
        ),
        Kind[Model](
            "gguf:PATH",
            "a causal language model in a GGUF file, run by llama.cpp in this process",
            _gguf_model,
        ),
        Kind[Model](
            "vllm:PATH",
            "a causal language model in a Hugging Face checkpoint folder, run by vLLM in this process",
            _vllm_model,
        ),
        Kind[Model](
            "openai:MODEL@URL",
            "a model behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, Ollama, hosted)",
            _server_model,
        ),
    )
}
SCORERS: Mapping[str, Kind[Scorer | None]] = {
    kind.name: kind
    for kind in (
        Kind[Scorer | None](
            "embedded",
            "the shipped process reward model for the embedded tasks",
            lambda _: _local_scorer(str(PROCESS_SCORER)),
        ),
        Kind[Scorer | None](
            "hf:PATH[#kind=KIND]",
            "a process reward model in a checkpoint folder; KIND: " + ", ".join(PRM_KINDS),
            _local_scorer,
        ),
        *(Kind[Scorer | None](*row) for row in SERVED_SCORERS),
        Kind[Scorer | None](
            "judge:MODEL[#option=value,...]",
            "a model asked in words; mode=score | yes-no | compare, unit=answer | step, n, temperature, "
            "max_tokens, scale=1-10, prompts=FILE",
            _judge,
        ),
        Kind[Scorer | None]("none", "no scorer: enough for greedy, sample and majority", lambda _: None),
    )
}

_EVERY_METHOD = [{name for name, _, _ in method_options(method)} for method in METHODS.values()]
COMMON_OPTIONS: list[tuple[str, str, str]] = [
    option
    for option in method_options(METHODS["majority"])
    if all(option[0] in names for names in _EVERY_METHOD)
]
"""What every method takes, as `method_options` says it."""
