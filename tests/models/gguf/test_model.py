"""`gguf:PATH`: llama.cpp for real on the exported reasoner (where llama-cpp-python is installed)."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path as FilePath

import pytest

from itscale.budget import Budget, Ledger
from itscale.embedded import REASONER
from itscale.errors import MemoryLimitError, ModelError, OptionError, PromptError
from itscale.models.base import Capability
from itscale.models.gguf import GGUFModel
from itscale.models.gguf.tokens import GGUFTokenizer
from itscale.models.local import LocalModel
from itscale.randomness import Seeded
from itscale.registry import load_model
from itscale.tasks import Chain, Countdown
from itscale.testing import MODEL_LAWS
from itscale.types import End, Message, Path, Prompt, Sampling, Until, to_json

pytest.importorskip("llama_cpp", reason='llama.cpp is not installed: pip install "itscale[gguf]"')
from recipes.export_gguf import export

PROMPTS = [p.prompt for pair in zip(Countdown().problems(4), Chain().problems(4), strict=True) for p in pair]
HOT = Sampling(temperature=1.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FilePath]:
    """The embedded reasoner as floats and quantised."""
    folder = tmp_path_factory.mktemp("gguf")
    for kind in ("f32", "q8_0"):
        export(REASONER, folder / f"{kind}.gguf", kind)
    return {kind: folder / f"{kind}.gguf" for kind in ("f32", "q8_0")}


@pytest.fixture(scope="module")
def floats(files: dict[str, FilePath]) -> Iterator[GGUFModel]:
    model = GGUFModel.load(files["f32"])
    yield model
    asyncio.run(model.close())


@pytest.fixture(scope="module")
def rounded(files: dict[str, FilePath]) -> Iterator[GGUFModel]:
    model = GGUFModel.load(files["q8_0"])
    yield model
    asyncio.run(model.close())


@pytest.fixture(params=["floats", "rounded"])
def model(request: pytest.FixtureRequest) -> GGUFModel:
    return request.getfixturevalue(request.param)


async def extended(model: GGUFModel | LocalModel, path: Path, n: int, what: str, seed: int = 0) -> list[Path]:
    return await model.extend(path, n, Until(what), HOT, Seeded(seed), Ledger(Budget()))  # type: ignore[arg-type]


async def sampled(model: GGUFModel | LocalModel, prompts: list[Prompt]) -> list[list[Path]]:
    return await asyncio.gather(*(extended(model, Path.root(p), 3, "end") for p in prompts))


@pytest.mark.parametrize("law", MODEL_LAWS)
def test_the_laws_of_the_model_seam_hold(model: GGUFModel, law):
    """As floats and quantised alike."""
    asyncio.run(law(model, PROMPTS[:2]))


def test_draws_are_those_of_the_in_process_engine(floats: GGUFModel, reasoner: LocalModel):
    """One seed, one answer, whoever computes the logits; log-probabilities and entropies agree too."""

    async def both() -> tuple[list[list[Path]], list[list[Path]]]:
        return await sampled(floats, PROMPTS), await sampled(reasoner, PROMPTS)

    for ours, theirs in zip(*asyncio.run(both()), strict=True):
        for path, other in zip(ours, theirs, strict=True):
            assert (path.token_ids, path.text) == (other.token_ids, other.text)
            for a, b in zip(path.steps, other.steps, strict=True):
                assert a.end is b.end
                assert a.token_logprobs == pytest.approx(b.token_logprobs, abs=1e-3)
                assert a.token_entropies == pytest.approx(b.token_entropies, abs=1e-3)
                assert a.logprob == pytest.approx(sum(a.token_logprobs), abs=1e-9)


def test_the_batch_does_not_show_in_what_is_drawn(model: GGUFModel):
    """Alone or among others, in steps or in one pass."""

    async def run() -> None:
        together = await sampled(model, PROMPTS)
        for prompt, expected in zip(PROMPTS[:3], together, strict=False):
            [alone] = await sampled(model, [prompt])
            assert [p.token_ids for p in alone] == [p.token_ids for p in expected]

    asyncio.run(run())


def test_a_fork_computes_nothing_again(rounded: GGUFModel):
    """Children of a path cost one token of context, the boundary, and their siblings none."""

    async def run() -> None:
        [child] = await extended(rounded, Path.root(PROMPTS[0]), 1, "step")
        assert child.step.end is End.BOUNDARY
        before = rounded.engine.computed_tokens
        first, second = Ledger(Budget()), Ledger(Budget())
        await rounded.extend(child, 4, Until("step"), HOT, Seeded(1), first)
        await rounded.extend(child, 4, Until("step"), HOT, Seeded(2), second)
        assert rounded.engine.computed_tokens - before == 1
        assert first.prompt_tokens - first.cached_tokens == 1
        assert second.prompt_tokens == second.cached_tokens

    asyncio.run(run())


def test_nothing_is_kept_for_dead_paths(rounded: GGUFModel):
    """Sequences and cells come back when nobody holds the paths any more."""

    async def run() -> None:
        paths = [await extended(rounded, Path.root(p), 4, "step") for p in PROMPTS]
        assert rounded.engine.sequences.n_used > 0
        del paths
        gc.collect()
        rounded.engine.sequences.collect()
        assert (rounded.engine.sequences.n_used, rounded.engine.sequences.n_held) == (0, 0)
        assert rounded.engine.sequences.reserved == 0

    asyncio.run(run())


def test_memory_is_kept_and_its_lack_is_a_sentence(files: dict[str, FilePath]):
    """With room for a few rows all answers come, the same as with plenty; with room for none, a sentence."""

    async def run() -> None:
        plenty = GGUFModel.load(files["q8_0"])
        per_cell = plenty._weights.bytes_per_cell
        tight = GGUFModel.load(files["q8_0"], kv_memory_bytes=256 * per_cell)
        expected, paths = await sampled(plenty, PROMPTS), await sampled(tight, PROMPTS)
        assert [[p.token_ids for p in row] for row in paths] == [
            [p.token_ids for p in row] for row in expected
        ]
        await plenty.close()
        await tight.close()
        none = GGUFModel.load(files["q8_0"], kv_memory_bytes=64 * per_cell)
        none.engine.max_context = 256  # else the context would be as small as the memory
        with pytest.raises(MemoryLimitError, match="raise kv_memory_bytes"):
            await extended(none, Path.root(PROMPTS[0]), 1, "end")
        await none.close()

    asyncio.run(run())


def test_a_cancelled_call_stops_and_is_charged(rounded: GGUFModel):
    """Whatever was drawn until then is on the account, and its rows are gone."""

    async def run() -> None:
        ledger = Ledger(Budget())
        call = asyncio.create_task(
            rounded.extend(Path.root(PROMPTS[1]), 60, Until("end"), HOT, Seeded(5), ledger)
        )
        while not rounded.engine._rows:
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert ledger.model_calls == 1
        assert 0 < ledger.generated_tokens < 60 * 128
        assert rounded.engine._rows == []
        assert rounded.engine.sequences.reserved == 0

    asyncio.run(run())


def test_given_tokens_have_the_log_probabilities_they_were_drawn_with(model: GGUFModel):
    """What a step says of itself is what is told of it when it is given."""

    async def run() -> None:
        roots = [Path.root(prompt) for prompt in PROMPTS]
        paths = [(await extended(model, root, 1, "step"))[0] for root in roots]
        ledger = Ledger(Budget())
        asked = (
            model.logprobs_of(root, path.token_ids, HOT, ledger)
            for root, path in zip(roots, paths, strict=True)
        )
        for path, told in zip(paths, await asyncio.gather(*asked), strict=True):
            assert told == pytest.approx(path.step.token_logprobs, abs=2e-2)
        assert ledger.generated_tokens == 0
        assert await model.logprobs_of(roots[0], (), HOT, ledger) == ()
        with pytest.raises(ModelError, match="the model's context holds 256"):
            await model.logprobs_of(roots[0], (5,) * 300, HOT, ledger)

    asyncio.run(run())


def test_a_forced_step_is_gone_on_from(floats: GGUFModel, reasoner: LocalModel):
    """As the in-process engine does, token for token."""

    async def run() -> None:
        continued = []
        for model in (floats, reasoner):
            path = model.forced(Path.root(PROMPTS[0]), "14 - 13 = 1 leaves 4 11 1\n")
            [child] = await extended(model, path, 1, "step")
            continued.append((path.token_ids, path.step.forced, child.token_ids))
        assert continued[0] == continued[1]

    asyncio.run(run())


def test_both_tokenizers_of_the_file_give_the_checkpoint_s_prompt_ids(
    floats: GGUFModel, reasoner: LocalModel
):
    """The one it carries from the checkpoint, and the one llama.cpp and its servers use."""
    own = GGUFTokenizer(floats._weights, original=False)
    for problem in [*Countdown().problems(60), *Chain().problems(60)]:
        expected = tuple(reasoner.prompts.ids(problem.prompt))
        assert tuple(floats.prompts.ids(problem.prompt)) == expected
        messages = [{"role": "user", "content": problem.prompt.question}]
        text = own.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert tuple(own(text, add_special_tokens=False).input_ids) == expected
    solution = "14 - 13 = 1 leaves 4 11 1\n4 * 11 = 44 leaves 1 44\nAnswer: 44"
    ids = own(solution).input_ids
    assert ids == reasoner._tokenizer(solution).input_ids
    assert own.text_of((), ids).replace("\n ", "\n").strip() == solution


def beyond_text(question: str) -> list[tuple[Prompt, str]]:
    """Prompts that say more than roles and texts, and the word the refusal has for it."""
    image = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    tools = [{"type": "function", "function": {"name": "add"}}]
    return [
        (Prompt(messages=(Message.of({"role": "user", "content": image}),)), "content"),
        (Prompt(messages=(Message("user", question),), request=to_json({"tools": tools})), "tools"),
    ]


def test_what_cannot_be_used_is_a_sentence(files: dict[str, FilePath], tmp_path: FilePath):
    """No file, no GGUF, half a GGUF, a question it was not made for."""
    with pytest.raises(OptionError, match="there is no GGUF file"):
        load_model(f"gguf:{tmp_path / 'none.gguf'}")
    (tmp_path / "text.gguf").write_text("not a model")
    (tmp_path / "half.gguf").write_bytes(files["q8_0"].read_bytes()[:1_000_000])
    for name in ("text.gguf", "half.gguf"):
        with pytest.raises(ModelError, match="cannot load"):
            load_model(f"gguf:{tmp_path / name}")
    model = load_model(f"gguf:{files['q8_0']}")
    assert model.capabilities == frozenset(Capability) - {Capability.HIDDEN}
    assert model.identity.startswith("gguf:")
    with pytest.raises(PromptError, match="two tasks only"):
        asyncio.run(extended(model, Path.root(Prompt.user("Who are you?")), 1, "end"))  # type: ignore[arg-type]
    for prompt, said in beyond_text(PROMPTS[0].question):
        with pytest.raises(PromptError, match=f"cannot honour {said}"):
            asyncio.run(extended(model, Path.root(prompt), 1, "end"))  # type: ignore[arg-type]
    asyncio.run(model.close())
