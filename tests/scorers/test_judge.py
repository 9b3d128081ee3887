"""A model as judge: strict verdicts, exact costs, both sides of the seam counted."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any

import pytest
import torch
import transformers

from itscale.budget import Budget, Ledger
from itscale.errors import ModelError, OptionError, PromptError, ScorerError
from itscale.methods import BestOfN, Knockout, Listwise, ParticleFilter
from itscale.models.base import Capability
from itscale.models.fake import FakeModel
from itscale.models.local import LocalModel
from itscale.recording import Recording
from itscale.registry import load_model
from itscale.scorers.base import ComparisonScorer, OutcomeScorer, ProcessScorer
from itscale.scorers.judge import Asking, ComparisonJudge, OutcomeJudge, ProcessJudge, judge_of, judge_prompts
from itscale.scorers.recorded import record_scores
from itscale.scorers.verdicts import NoVerdict
from itscale.types import End, Message, Path, Prompt, Step, to_json
from tests.bench.worlds import coin_model
from tests.models.recorded_runs import in_session
from tests.scorers.tiny_prms import TINY_PRMS

QUESTION = Prompt.user("What is 6 * 7?")


class Scribe(FakeModel):
    """A judge that answers `say(what it was asked)`, a word a token; keeps what it was asked."""

    def __init__(self, say: Callable[[str], str], **options: Any) -> None:
        super().__init__(lambda prefix: {"$": 1.0}, vocabulary=["$"], name="scribe", **options)
        self.say = say
        self.asked: list[str] = []

    async def extend(self, path, n, until, sampling, rng, ledger):
        call, self.calls = self.calls, self.calls + 1
        self.asked.append(path.prompt.question)
        said = self.say(path.prompt.question)
        words = said.split(" ")
        ledger.charge_model(prompt=self.prompt_tokens(path.prompt), cached=0, generated=len(words) + 1)
        await asyncio.sleep(0)
        if self._fail(call):
            raise ModelError("told to fail; drop fail=")
        end = End.EOS if len(words) < until.max_tokens else End.LENGTH
        return [path.child(Step(tuple(range(len(words) + 1)), said, end)) for _ in range(n)]


def answer(*texts: str, prompt: Prompt = QUESTION) -> Path:
    path = Path.root(prompt)
    for i, text in enumerate(texts):
        end = End.EOS if i == len(texts) - 1 else End.BOUNDARY
        path = path.child(Step((i,), text, end))
    return path


def scored(judge: Any, path: Path) -> tuple[Any, Ledger]:
    ledger = Ledger(Budget())
    return asyncio.run(judge.score(path, ledger)), ledger


def test_a_score_is_read_from_the_last_line_and_paid_for():
    """Question and answer reach the judge; its whole cost is scorer tokens, its words are no model call."""
    model = Scribe(lambda asked: "It is right.\nScore: 8")
    score, ledger = scored(OutcomeJudge(model), answer("Answer: 42"))
    assert score == pytest.approx(0.75)
    [asked] = model.asked
    assert "What is 6 * 7?" in asked
    assert "Answer: 42" in asked
    assert "from 1 (surely wrong) to 10" in asked
    assert ledger.scorer_tokens == len(asked.split()) + 5
    assert (ledger.model_calls, ledger.prompt_tokens, ledger.generated_tokens) == (0, 0, 0)


@pytest.mark.parametrize(
    "said",
    [
        "The answer looks right to me.",
        "",
        "Score: 11",
        "Score: 0",
        "Score: NaN",
        "Score: 8 or 9",
        "Score: eight",
        "Score: 8\nI hope this helps!",
        "8",
        "Score: 1e1",
        "My Score: 8",
    ],
)
def test_prose_is_no_score(said: str):
    """Whatever is not the line asked for raises, with what was said and the fix; never a default."""
    with pytest.raises(NoVerdict, match=r"no verdict.*Score: N, from 1 to 10.*stronger judge"):
        scored(OutcomeJudge(Scribe(lambda asked: said)), answer("Answer: 42"))


def test_judgements_are_averaged_and_counted():
    """n calls with draws of their own; those without a verdict are left out, all of them is an error."""
    said = iter(["Score: 10", "hm", "Score: 1"])
    judge = OutcomeJudge(Scribe(lambda asked: next(said)), Asking(n=3))
    assert scored(judge, answer("Answer: 42"))[0] == pytest.approx((0.95 + 0.05) / 2)
    assert judge.calls_each == 3
    with pytest.raises(NoVerdict):
        scored(OutcomeJudge(Scribe(lambda asked: "hm"), Asking(n=3)), answer("Answer: 42"))
    run = BestOfN().run(
        "Call coin 1.",
        coin_model(),
        OutcomeJudge(Scribe(lambda a: "Score: 3"), Asking(n=3)),
        Budget(generations=4),
    )
    assert asyncio.run(run).usage.scorer_calls == 12


def test_several_judgements_are_several_draws_and_repeatable():
    """Temperature 1 by default for several; the same question has the same draws again."""
    fair = {"Score: 1": 0.5, "Score: 10": 0.5}
    model = FakeModel({(): fair, ("Score: 1",): {"$": 1.0}, ("Score: 10",): {"$": 1.0}})
    judge = OutcomeJudge(model, Asking(n=12))
    first, again = (scored(judge, answer("Answer: 42"))[0] for _ in range(2))
    assert first == again
    assert 0.05 < first < 0.95, "twelve draws of a fair coin agree once in 2048 seeds, and this seed is fixed"


def test_a_judge_that_does_not_finish_has_no_verdict():
    """A cut judgement may end on anything."""
    judge = OutcomeJudge(Scribe(lambda asked: "one two three\nScore: 8"), Asking(max_tokens=3))
    with pytest.raises(ScorerError, match="not done after 3 tokens"):
        scored(judge, answer("Answer: 42"))


def test_a_failed_call_is_charged_and_raised():
    """What it cost until then is in the account."""
    ledger = Ledger(Budget())
    judge = OutcomeJudge(Scribe(lambda asked: "Score: 1", fail=lambda call: True))
    with pytest.raises(ModelError, match="told to fail"):
        asyncio.run(judge.score(answer("Answer: 42"), ledger))
    assert ledger.scorer_tokens > 0


def test_each_step_is_judged_once():
    """In its context, whatever grows from it, at once or later; white space repeats the step before."""
    model = Scribe(lambda asked: "Score: 2" if "<step>\nwrong" in asked else "Score: 9")
    judge = ProcessJudge(model)
    path = answer("right one\n", "wrong two\n", " \n", "right three")
    parent = path.parent
    assert parent is not None
    other = parent.child(Step((7,), "wrong end", End.EOS))

    async def run() -> list[Any]:
        ledger = Ledger(Budget())
        both = await asyncio.gather(judge.score(path, ledger), judge.score(other, ledger))
        return [*both, await judge.score(path, ledger)]

    first, second, again = asyncio.run(run())
    assert first == again == pytest.approx([0.85, 0.15, 0.15, 0.85])
    assert second == pytest.approx([0.85, 0.15, 0.15, 0.15])
    assert model.calls == 4
    assert "<before>\n(nothing yet)\n</before>" in model.asked[0]
    assert "right one\nwrong two" in next(asked for asked in model.asked if "<step>\nright three" in asked)


def test_a_step_without_verdict_costs_the_path_its_scores_and_is_asked_again():
    """What was judged beside it stays judged."""
    said = {"a": "Score: 9", "b": "no idea"}
    model = Scribe(lambda asked: said[asked.partition("<step>\n")[2][0]])
    judge = ProcessJudge(model)
    path = answer("a\n", "b")
    with pytest.raises(NoVerdict):
        scored(judge, path)
    said["b"] = "Score: 5"
    assert scored(judge, path)[0] == pytest.approx([0.85, 0.45])
    assert model.calls == 3


YES_NO = FakeModel(
    {(): {"Yes": 0.6, "N": 0.3, "Maybe": 0.1}, ("N",): {"o": 0.5, "one": 0.5}, ("Yes",): {"$": 1.0}}
    | {("N", "o"): {"$": 1.0}, ("N", "one"): {"$": 1.0}, ("Maybe",): {"$": 1.0}},
)


@pytest.mark.parametrize("kind", [OutcomeJudge, ProcessJudge])
def test_yes_against_no_is_a_probability(kind: type):
    """P(Yes) / (P(Yes) + P(No)), words of several tokens too; nothing is generated."""
    ledger = Ledger(Budget())
    score = asyncio.run(kind(YES_NO, Asking(yes_no=True)).score(answer("Answer: 42"), ledger))
    [value] = [score] if isinstance(score, float) else score
    assert value == pytest.approx(0.6 / (0.6 + 0.15))
    assert ledger.scorer_tokens > 0


def test_certainty_stays_in_the_open_interval_and_nothing_is_refused():
    """A process score is never 0 or 1; a judge that says neither has no verdict."""
    sure = FakeModel({(): {"Yes": 1.0, "No": 0.0}, ("Yes",): {"$": 1.0}, ("No",): {"$": 1.0}})
    [value] = scored(ProcessJudge(sure, Asking(yes_no=True)), answer("x"))[0]
    assert 0 < value < 1
    neither = FakeModel(
        {(): {"Yes": 0.0, "No": 0.0, "Hm": 1.0}, **{(w,): {"$": 1.0} for w in ("Yes", "No", "Hm")}}
    )
    with pytest.raises(ScorerError, match="neither Yes nor No"):
        scored(OutcomeJudge(neither, Asking(yes_no=True)), answer("x"))


def test_yes_no_needs_a_model_that_tells():
    """Refused before any call, with what works."""
    mute = FakeModel({(): {"$": 1.0}}, capabilities=frozenset({Capability.STEPS}))
    with pytest.raises(OptionError, match="use mode=score"):
        OutcomeJudge(mute, Asking(yes_no=True))


def test_yes_against_no_on_a_real_engine(tmp_path: FilePath):
    """The probability is that of a plain forward pass over the same prompt, words of several tokens."""
    torch.manual_seed(3)
    folder = TINY_PRMS["rlhflow-prm"](tmp_path).folder
    judge = judge_of(f"hf:{folder}#mode=yes-no", load_model)
    assert isinstance(judge, OutcomeJudge)
    score, ledger = scored(judge, answer("42"))
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    asked = judge_prompts()["score-yes-no"].replace("{question}", "What is 6 * 7?").replace("{answer}", "42")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": asked}], add_generation_prompt=True, tokenize=False
    )
    prompt = tokenizer.encode(text)
    log_probabilities = []
    for word in ("Yes", "No"):
        ids = tokenizer.encode(word)
        with torch.no_grad():
            law = plain(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
        log_probabilities.append(sum(float(law[len(prompt) - 1 + i, t]) for i, t in enumerate(ids)))
    expected = 1 / (1 + math.exp(log_probabilities[1] - log_probabilities[0]))
    assert score == pytest.approx(expected, abs=1e-4)
    assert len(prompt) <= ledger.scorer_tokens < 1.5 * len(prompt), "the prompt is computed once"
    asyncio.run(judge.close())


def test_a_judge_that_cannot_read_ends_the_run(reasoner: LocalModel):
    """The embedded reasoner knows its own tasks only, and says so before anything is sampled from it."""
    run = BestOfN().run("Call coin 1.", coin_model(), OutcomeJudge(reasoner), Budget(generations=2))
    with pytest.raises(PromptError, match="cannot read what a judge is asked: the model cannot read"):
        asyncio.run(run)


def test_pairs_and_lists_are_compared_in_the_order_given():
    """Two by `Best`, more by `Ranking`; each answer in its own numbered place."""
    model = Scribe(lambda asked: "Ranking: 2 > 1 = 3" if "<answer_3>" in asked else "Best: 2")
    judge = ComparisonJudge(model)
    paths = [answer("Answer: 1"), answer("Answer: 2"), answer("Answer: 3")]
    ledger = Ledger(Budget())
    assert tuple(asyncio.run(judge.compare(paths[:2], ledger))) == (1, 0)
    assert tuple(asyncio.run(judge.compare(paths, ledger))) == (1, 0, 1)
    assert "<answer_1>\nAnswer: 1\n</answer_1>" in model.asked[0]
    assert "You rank 3 answers" in model.asked[1]
    assert ledger.scorer_tokens == sum(len(a.split()) for a in model.asked) + 3 + 7


@pytest.mark.parametrize(
    ("method", "prefers"), [(Knockout(), "Best: 1"), (Listwise(group=3), "Ranking: 1 > 2 > 3")]
)
def test_a_biased_judge_does_no_harm_end_to_end(method: Any, prefers: str):
    """It likes the first place in every order, and the majority's answer stands."""
    texts = {"Answer: 1": 0.2, "Answer: 2": 0.6, "Answer: 3": 0.2}
    model = FakeModel({(): texts, **{(t,): {"$": 1.0} for t in texts}})
    judge = ComparisonJudge(
        Scribe(lambda asked: prefers if "answer_3" in asked or "Best" in prefers else "Best: 1")
    )
    result = asyncio.run(method.run("q", model, judge, Budget(generations=12), seed=3))
    votes = [c.answer for c in result.candidates]
    assert votes.count(result.answer) == max(map(votes.count, votes))
    assert result.usage.scorer_calls > 0
    assert result.usage.failed_calls == 0


def test_what_is_filled_in_is_not_filled_again():
    """An answer that contains a blank of the template stays as it is."""
    model = Scribe(lambda asked: "Score: 5")
    scored(OutcomeJudge(model), answer("{question} {low} {nothing}"))
    assert "{question} {low} {nothing}" in model.asked[0]


def test_a_conversation_is_shown_with_its_roles():
    """What else was said is part of the question."""
    prompt = Prompt((Message("system", "Be brief."), Message("user", "6 * 7?")))
    model = Scribe(lambda asked: "Score: 5")
    scored(OutcomeJudge(model), answer("42", prompt=prompt))
    assert "[system]\nBe brief.\n\n[user]\n6 * 7?" in model.asked[0]


def test_specs_make_judges(tmp_path: FilePath):
    """`MODEL#options`: the model's own options stand before the judge's."""
    loaded: list[str] = []

    def load(spec: str) -> FakeModel:
        loaded.append(spec)
        return YES_NO

    assert isinstance(judge_of("hf:y", load), OutcomeScorer)
    assert isinstance(judge_of("openai:m@http://h/v1#timeout=60#unit=step,n=3", load), ProcessScorer)
    assert isinstance(judge_of("openai:m@http://h/v1#timeout=60#", load), OutcomeScorer)
    assert isinstance(judge_of("hf:x#mode=compare", load), ComparisonScorer)
    judge = judge_of("hf:x#mode=yes-no,scale=0-5,max-tokens=9", load)
    assert judge.asking == Asking(yes_no=True, low=0, high=5, max_tokens=9)
    assert loaded == ["hf:y", *["openai:m@http://h/v1#timeout=60"] * 2, "hf:x", "hf:x"]
    own = tmp_path / "mine.toml"
    own.write_text('[score]\nuser = "Grade {answer}"\n')
    model = Scribe(lambda asked: "Score: 5")
    mine = judge_of(f"hf:x#prompts={own}", lambda spec: model)
    assert isinstance(mine, OutcomeJudge)
    scored(mine, answer("this"))
    assert model.asked == ["Grade this"]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("embedded", r"judge:openai:MODEL@URL, judge:hf:PATH\), or the embedded process scorer \(embedded\)"),
        ("embedded#mode=compare", "cannot judge; give a judge that reads"),
        ("hf:x#mod=score", "did you mean 'mode'"),
        ("hf:x#mode=yesno", "did you mean 'yes-no'"),
        ("hf:x#unit=steps", "did you mean 'step'"),
        ("hf:x#mode=compare,unit=step", "leave out unit"),
        ("hf:x#n=0", "at least 1"),
        ("hf:x#n=2,temperature=0", "all the same"),
        ("hf:x#n=2,mode=yes-no", "all the same"),
        ("hf:x#temperature=-1", "at least 0"),
        ("hf:x#scale=10-1", "smaller to a larger"),
        ("hf:x#scale=ten", "two numbers"),
        ("hf:x#prompts=/no/such/file", "copy itscale/scorers/judge_prompts.toml"),
        ("openai:m@http://h/v1#timeout=60", "end in #"),
    ],
)
def test_impossible_judges_are_refused(text: str, hint: str):
    """Before the model is loaded, with the fix."""
    with pytest.raises(OptionError, match=hint):
        judge_of(text, lambda spec: pytest.fail("the model was loaded"))


def test_a_prompt_file_with_an_unknown_prompt_is_refused(tmp_path: FilePath):
    """A misspelled table would be ignored in silence."""
    (tmp_path / "p.toml").write_text('[scores]\nuser = "x"\n')
    with pytest.raises(OptionError, match="'scores'; known"):
        judge_prompts(tmp_path / "p.toml")


def test_identity_says_how_it_is_asked():
    """Two ways to ask are two scorers to a recording, and so are two kinds; the model is part of it."""
    kinds = [OutcomeJudge(YES_NO), ProcessJudge(YES_NO), ComparisonJudge(YES_NO)]
    kinds += [OutcomeJudge(YES_NO, Asking(n=2)), OutcomeJudge(YES_NO, prompts={"score": "x"})]
    assert len({judge.identity for judge in kinds}) == len(kinds)
    assert all("fake" in judge.identity for judge in kinds)


def test_a_recorded_judge_is_asked_once(tmp_path: FilePath):
    """Scores of steps and their cost come back; n judgements count as n calls both times."""
    model = Scribe(lambda asked: "Score: 7")

    async def run(recording: Recording) -> Any:
        judge = record_scores(ProcessJudge(model, Asking(n=2)), recording)
        return await ParticleFilter().run("Call coin 3.", coin_model(), judge, Budget(generations=3), seed=2)

    first = in_session(tmp_path / "calls.db", run)
    calls = model.calls
    again = in_session(tmp_path / "calls.db", run, offline=True)
    assert model.calls == calls > 0
    assert again.usage.scorer_tokens == first.usage.scorer_tokens > 0
    assert again.usage.scorer_calls == first.usage.scorer_calls == again.usage.replayed_scorer_calls
    assert again.usage.scorer_calls % 2 == 0
    assert math.isclose(again.candidates[0].score, first.candidates[0].score)


def test_prose_costs_a_candidate_its_score_and_no_run_its_end():
    """Best-of-n with a judge that answers one text in prose: the others are judged, failures counted."""
    judge = OutcomeJudge(Scribe(lambda asked: "Score: 9" if "Answer: 1" in asked else "dunno"))
    result = asyncio.run(BestOfN().run("Call coin 2.", coin_model(), judge, Budget(generations=8), seed=1))
    without = [c for c in result.candidates if c.score is None]
    assert result.answer == "1"
    assert len(without) == result.usage.failed_calls > 0
    assert all(c.answer == "0" for c in without)


def test_how_an_answer_was_drawn_is_not_for_the_judge():
    """It is asked in the same words whatever the sampler was told; tools it cannot read are refused."""
    asked = []
    for request in ({}, {"stop": ["x"], "logit_bias": {}}):
        model = Scribe(lambda _: "Score: 7")
        prompt = Prompt(QUESTION.messages, request=to_json(request) if request else None)
        asyncio.run(OutcomeJudge(model, Asking()).score(answer("42", prompt=prompt), Ledger(Budget())))
        asked.append(model.asked)
    assert asked[0] == asked[1]
    tools = Prompt(QUESTION.messages, request=to_json({"tools": []}))
    with pytest.raises(PromptError, match="a judge reads plain messages and cannot honour tools"):
        asyncio.run(OutcomeJudge(Scribe(str), Asking()).score(answer("42", prompt=tools), Ledger(Budget())))
