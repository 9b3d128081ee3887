from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itscale import registry
from itscale.embedded import PROCESS_SCORER, REASONER
from itscale.errors import OptionError, TaskError
from itscale.methods import Beam, BestOfN, BudgetForcing, Method, ParticleFilter
from itscale.methods.base import Outcome
from itscale.methods.session import Session
from itscale.models.local import LocalModel
from itscale.registry import (
    COMMON_OPTIONS,
    METHODS,
    load_model,
    load_scorer,
    load_task,
    method_label,
    method_options,
    parse_method,
    split_methods,
)
from itscale.scorers.prm import LocalProcessScorer


@dataclass(frozen=True, kw_only=True)
class Everything(Method):
    """A method with an option of every type."""

    name: ClassVar[str] = "everything"
    summary: ClassVar[str] = "all of it"
    scorer_kind: ClassVar[Literal["none", "any", "process"]] = "none"

    count: int = 1
    share: float = 0.5
    eager: bool = True
    word: str = "x"
    limit: int | None = None
    side: Literal["left", "right", 3] = "left"

    async def search(self, session: Session) -> Outcome:
        raise NotImplementedError


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "METHODS", {**METHODS, "everything": Everything})


@pytest.mark.parametrize("name", METHODS)
def test_a_bare_name_is_the_method_with_its_defaults(name: str):
    """Every listed method is found under its own name, and its label is that name."""
    method = parse_method(name)
    assert method == METHODS[name]()
    assert method_label(method) == method.name == name


def test_options_are_typed():
    """Whole numbers, choices and fractions arrive as such."""
    assert parse_method("beam:width=2,scope=parent") == Beam(width=2, scope="parent")
    assert parse_method("particle-filter:ess_threshold=0.25") == ParticleFilter(ess_threshold=0.25)
    assert parse_method(" best-of-n:aggregate=min , temperature=0.7") == BestOfN(
        aggregate="min", temperature=0.7
    )


def test_options_may_be_kebab_case():
    """`max-steps` is what a command line would say, `max_steps` what Python would."""
    assert parse_method("beam:max-steps=9") == parse_method("beam:max_steps=9") == Beam(max_steps=9)


@pytest.mark.usefixtures("everything")
def test_every_type_of_option_can_be_written():
    """int, float, bool, str, None and choices."""
    spec = "everything:count=7,share=1e-3,eager=No,word=True,limit=12,side=3"
    assert parse_method(spec) == Everything(count=7, share=0.001, eager=False, word="True", limit=12, side=3)
    assert parse_method("everything:limit=none") == Everything()


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("everything:count=1.5", "option count is '1.5'; give a whole number"),
        ("everything:share=much", "option share is 'much'; give a number"),
        ("everything:eager=maybe", "option eager is 'maybe'; give true or false"),
        ("everything:limit=x", "option limit is 'x'; give a whole number or none"),
        ("everything:side=up", r"option side is 'up'; give left \| right \| 3"),
        ("everything:side", "option 'side' of everything has no value"),
        ("everything:count=1,count=2", "'count' of everything is given twice"),
        ("everything:", "ends in a colon"),
        ("everything:count=1,", "option '' of everything has no value"),
        ("beam:widht=2", "unknown option of beam 'widht'; did you mean 'width'"),
        ("beam:name=x", "unknown option of beam 'name'"),
        ("majority:n=8", "it is the budget; give majority and --budget 8"),
        ("beem", "unknown method 'beem'; did you mean 'beam'"),
        ("best_of_n", "did you mean 'best-of-n'"),
        ("beam:width=0", "width"),
        ("sample:temperature=nan", "temperature is nan"),
        ("sample:temperature=inf", "temperature is inf"),
        ("dts:widen=inf", "widens by inf"),
        ("entropy-exit:threshold=nan", "threshold is nan"),
        ("particle-filter:resampling=optimal", "give multinomial"),
        ("", "unknown method ''"),
    ],
)
def test_what_cannot_be_honoured_is_refused(spec: str, says: str):
    """Each wrong spec says what is wrong with it and what would be right."""
    with pytest.raises(OptionError, match=says):
        parse_method(spec)


methods = st.one_of(
    st.sampled_from([METHODS[name]() for name in METHODS]),
    st.builds(
        Beam,
        width=st.integers(1, 9),
        scope=st.sampled_from(["global", "parent"]),
        finished_hold_slot=st.booleans(),
        temperature=st.floats(0, 3),
        top_p=st.floats(0.01, 1),
    ),
    st.builds(
        ParticleFilter, ess_threshold=st.floats(0, 1), choose=st.sampled_from(["vote", "argmax", "sample"])
    ),
    st.builds(BudgetForcing, waits=st.just(1), wait=st.text("W,=:% \n|#é", min_size=1)),
)


@given(methods)
def test_a_label_is_the_method(method: Method):
    """A label parses back to the very method, so that rows of a run folder name what was run."""
    assert parse_method(method_label(method)) == method


@given(st.lists(methods, min_size=1, max_size=5))
def test_a_list_of_labels_splits_into_them(listed: list[Method]):
    """Commas between methods and commas between options are told apart."""
    labels = [method_label(method) for method in listed]
    assert split_methods(",".join(labels)) == labels


def test_an_option_belongs_to_the_method_before_it():
    """With or without the colon, whatever stands around."""
    assert split_methods("beam:width=4,scope=global,majority") == ["beam:width=4,scope=global", "majority"]
    assert split_methods("greedy, beam,width=4,sample") == ["greedy", "beam:width=4", "sample"]
    assert split_methods("sample,word=a:b") == ["sample:word=a:b"]


@pytest.mark.parametrize("text", ["", "majority,,beam", "majority,", "width=4,beam"])
def test_a_list_with_holes_is_refused(text: str):
    """Nothing is guessed."""
    with pytest.raises(OptionError, match=r"empty part|begins with an option"):
        split_methods(text)


def test_options_are_listed_with_what_they_may_be():
    """What `itscale list methods` prints; common options are those of every method."""
    assert ("scope", "global | parent", "global") in method_options(Beam)
    assert [name for name, _, _ in COMMON_OPTIONS] == ["temperature", "top_p", "max_tokens"]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("embeded", "unknown model 'embeded'; did you mean 'embedded'"),
        ("opnai:gpt@http://x", "did you mean 'openai'"),
        ("openai:gpt", "names no server; write openai:MODEL@http"),
        ("openai", "not of the form openai:MODEL@URL"),
        ("none", "unknown model 'none'"),
        ("hf", "not of the form hf:PATH"),
        ("embedded:big", "not of the form embedded"),
        ("hf:/no/such/folder", "no checkpoint folder at '/no/such/folder'"),
        ("", "unknown model ''"),
        ("gguf", "not of the form gguf:PATH"),
        ("gguf:/no/such.gguf", "there is no GGUF file at '/no/such.gguf'"),
        ("vllm:/no/such/folder", "no checkpoint folder at '/no/such/folder'"),
    ],
)
def test_a_wrong_model_spec_is_refused(spec: str, says: str):
    """Kinds that do not exist yet included: nothing is half-understood."""
    with pytest.raises(OptionError, match=says):
        load_model(spec)


def test_a_wrong_scorer_spec_is_refused():
    """The same sentences for scorers, which know `none`."""
    with pytest.raises(OptionError, match="unknown scorer 'nonne'; did you mean 'none'"):
        load_scorer("nonne")
    assert load_scorer("none") is None


def test_specs_reach_their_loaders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`hf:` gets the folder it names, `embedded` the shipped one."""
    asked: list[object] = []
    monkeypatch.setattr(LocalModel, "load", lambda folder: asked.append(folder))
    monkeypatch.setattr(LocalProcessScorer, "load", lambda folder, kind: asked.append((folder, kind)))
    load_model(f"hf:{tmp_path}")
    load_model("embedded")
    load_scorer(f"hf:{tmp_path}")
    load_scorer(f"hf:{tmp_path}#kind=rlhflow-prm")
    load_scorer("embedded")
    scorers = [(tmp_path, None), (tmp_path, "rlhflow-prm"), (PROCESS_SCORER, None)]
    assert asked == [tmp_path, REASONER, *scorers]


def test_missing_torch_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The light install is complete until a local model is asked for."""
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForTokenClassification"]}')
    monkeypatch.setitem(sys.modules, "torch", None)
    for load in (load_model, load_scorer):
        with pytest.raises(OptionError, match=r'pip install "itscale\[local\]"'):
            load(f"hf:{tmp_path}")


@pytest.mark.parametrize(("kind", "package"), [("gguf", "llama_cpp"), ("vllm", "vllm")])
def test_a_missing_engine_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, package: str
):
    """The large engines are extras of their own."""
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path if kind == "vllm" else tmp_path / "config.json"
    with pytest.raises(OptionError, match=rf'pip install "itscale\[{kind}\]"'):
        load_model(f"{kind}:{path}")


def test_an_unknown_task_is_refused():
    """With the nearest name."""
    assert load_task("chain").name == "chain"
    with pytest.raises(TaskError, match="unknown task 'countdwn'; did you mean 'countdown'"):
        load_task("countdwn")


def test_naming_things_is_light():
    """The command line, its help and its lists load neither torch nor matplotlib."""
    code = (
        "import sys; from itscale.cli import app; "
        "[app(words, standalone_mode=False) for words in (['--help'], ['list', 'methods'])]; "
        "print('heavy:', sorted({'torch', 'transformers', 'matplotlib'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"
