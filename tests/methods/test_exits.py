"""Methods that stop a chain: laws by enumeration, lengths, budgets, promises."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import numpy as np
import pytest

from itscale.budget import Budget
from itscale.errors import AllFailedError, CalibrationError, OptionError
from itscale.methods import Anytime, BudgetForcing, EarlyExit, EntropyExit, ThinkingMode
from itscale.methods.early_exit import ExitRule, cue_of
from itscale.methods.entropy_exit import deviation
from itscale.methods.exiting import closed
from itscale.methods.probes import Probe, conformal_quantile
from itscale.models.base import Capability
from itscale.models.fake import FakeModel
from itscale.testing import enumerate_law
from itscale.types import End, Path, Prompt, Step, StopReason

PROMPT = Prompt.user("count")
VOCABULARY = ["t\n", "Hmm\n", "Answer: ", "1", "2", "\n", "$"]


def thinker(prefix):
    """Thinks on with 0.6, answers with 0.4; the more it thought the likelier the answer is 1."""
    if prefix and prefix[-1] in "12":
        return {"$": 1.0}
    if prefix and prefix[-1] == "Answer: ":
        p = right(prefix.count("t\n"))
        return {"1": p, "2": 1 - p}
    return {"t\n": 0.6, "Answer: ": 0.4}


def right(thoughts):
    return min(0.3 + 0.3 * thoughts, 0.9)


def fake(law=thinker, **options):
    return FakeModel(law, vocabulary=VOCABULARY, boundary="\n", **options)


def law_of(method, read=lambda result: result.text, budget=None, law=thinker):
    async def run(rng):
        return read(await method.run(PROMPT, fake(law), None, budget or Budget(generations=4), rng))

    return enumerate_law(run)


def answered(text, k, law):
    """Add the two answers of a chain that ends by itself after k thoughts."""
    p = right(k)
    return {f"{text}Answer: 1": law * p, f"{text}Answer: 2": law * (1 - p)}


def forced(text, k):
    """What greedy decoding says after an exit."""
    return f"{text}Answer: {1 if right(k) > 0.5 else 2}"


def test_budget_forcing_law():
    """A chain of at most two tokens of thinking: its own end, or the exit, with the right probability."""
    # "Answer: ", its answer and the end are three tokens: within two nothing ends by itself.
    expected = {forced("t\nt\n", 2): 0.36, forced("t\nAnswer: \n", 1): 0.24}
    for answer, p in (("1", right(0)), ("2", 1 - right(0))):
        expected[f"Answer: {answer}\nAnswer: 2"] = 0.4 * p
    assert law_of(BudgetForcing(thinking=2)) == pytest.approx(expected)


@pytest.mark.parametrize("waits", [1, 2])
def test_a_wait_takes_an_ending_back(waits):
    """Law: each ending is dropped and thinking goes on with the word, `waits` times, then it may end."""

    def ends(text, k, left, p, depth):
        """All (text, probability) from here on, by the table alone; four thoughts at most."""
        if k + depth >= 4:
            yield "long", p
            return
        yield from ends(text + "t\n", k + 1, left, p * 0.6, depth)
        if left:
            yield from ends(text + "Hmm\n", k, left - 1, p * 0.4, depth)
        else:
            yield from answered(text, k, p * 0.4).items()

    expected: Counter = Counter()
    for text, p in ends("", 0, waits, 1.0, 0):
        expected[text] += p
    got: Counter = Counter()
    method = BudgetForcing(waits=waits, wait="Hmm\n", max_tokens=4 + 3 * waits + 3, answer_tokens=3)

    def four(prefix):
        return (
            {"t\n": 1.0}
            if prefix.count("t\n") >= 4 and prefix[-1] not in ("Answer: ", *"12")
            else thinker(prefix)
        )

    for text, p in law_of(method, law=four).items():
        got["long" if text.count("t\n") >= 4 else text] += p
    assert got == pytest.approx(dict(expected))


def scripted(k):
    """Ends its thinking by itself after k thoughts since the last word of somebody else."""

    def law(prefix):
        if prefix and prefix[-1] in "12":
            return {"$": 1.0}
        if prefix and prefix[-1] == "Answer: ":
            return {"1": 1.0}
        since = len(prefix) - max((i for i, t in enumerate(prefix) if t == "Hmm\n"), default=-1) - 1
        return {"t\n": 1.0} if since < k else {"Answer: ": 1.0}

    return law


@pytest.mark.parametrize("waits", [0, 1, 3])
def test_there_are_as_many_waits_as_asked_for(waits):
    """m waits make m + 1 segments of thinking; taken-back endings are paid for."""
    model = fake(scripted(2))
    result = asyncio.run(BudgetForcing(waits=waits, wait="Hmm\n").run(PROMPT, model, None, Budget()))
    assert result.text == "Hmm\n".join(["t\nt\n"] * (waits + 1)) + "Answer: 1"
    assert result.answer == "1"
    assert result.usage.generated_tokens == model.tokens_generated == 2 * (waits + 1) + 3 * (waits + 1)


@pytest.mark.parametrize("cap", [1, 3, 7])
def test_a_cap_is_exact(cap):
    """Who would think on is stopped at exactly that many tokens and answers."""
    model = fake(scripted(100))
    result = asyncio.run(BudgetForcing(thinking=cap).run(PROMPT, model, None, Budget()))
    assert result.text == "t\n" * cap + "Answer: 1"
    assert model.tokens_generated == cap + 2


@pytest.mark.parametrize("tokens", [4, 6, 9])
@pytest.mark.parametrize(
    "method",
    [
        BudgetForcing(answer_tokens=3),
        Anytime(every=3, answer_tokens=3),
        EntropyExit(answer_tokens=3),
        ThinkingMode(mode="short", answer_tokens=3),
    ],
    ids=lambda method: method.name,
)
def test_a_token_limit_leaves_an_answer(method, tokens):
    """An endless thinker under a limit answers within it."""
    model = fake(scripted(100))
    result = asyncio.run(method.run(PROMPT, model, None, Budget(tokens=tokens)))
    assert model.tokens_generated <= tokens
    assert result.usage.generated_tokens == model.tokens_generated
    assert result.answer == "1"


def test_deviation_is_the_ratio_of_means():
    """Against NumPy; a constant signal has ratio 1, an empty one of zeros too."""
    signal = np.random.default_rng(0).random(200)
    for i in range(20, 200, 13):
        expected = signal[i - 20 : i].mean() / signal[:i].mean()
        assert deviation(signal[:i].tolist(), 20) == pytest.approx(expected, rel=1e-12)
    assert deviation([0.3] * 50, 10) == pytest.approx(1.0)
    assert deviation([0.0] * 50, 10) == 1.0


def bursting(prefix):
    """Sure for six thoughts, then torn: entropy rises from that of (0.98, 0.02) to that of halves."""
    if prefix and prefix[-1] in "12":
        return {"$": 1.0}
    if prefix and prefix[-1] == "Answer: ":
        return {"1": 1.0}
    p = 0.98 if len(prefix) < 6 else 0.5
    return {"t\n": p, "Hmm\n": 1 - p}


@pytest.mark.parametrize("signal", ["entropy", "transitions"])
@pytest.mark.parametrize("threshold", [1.2, 1.7, 2.5])
def test_the_entropy_exit_is_at_the_first_crossing(signal, threshold):
    """The brute-force index, on every path of the burst; never before the window is full."""
    calm = -(0.98 * math.log(0.98) + 0.02 * math.log(0.02))
    raw = [calm] * 6 + [math.log(2)] * 10
    values = raw if signal == "entropy" else [float(h > 0.5) for h in raw]
    crossing = next(
        (
            i
            for i in range(3, 13)
            if np.mean(values[:i]) > 0 and np.mean(values[i - 3 : i]) / np.mean(values[:i]) > threshold
        ),
        12,
    )
    method = EntropyExit(window=3, threshold=threshold, signal=signal, high=0.5, max_tokens=12)
    for seed in range(4):
        result = asyncio.run(method.run(PROMPT, fake(bursting), None, Budget(), seed))
        thought = sum(not step.forced for step in result.candidates[0].path.steps) - 1
        assert thought == crossing
        assert result.answer == "1"


def test_anytime_reads_the_chain_as_it_grows():
    """A reading after every two tokens; the last is the answer, and each costs its own tokens."""
    model = fake(thinker)
    method = Anytime(every=2, max_tokens=6)
    law = law_of(method, read=lambda r: tuple(c.path.text for c in r.candidates))
    longest = max(law, key=len)
    assert longest[:3] == tuple(forced("t\n" * k, k) for k in (2, 4, 6))
    assert sum(law.values()) == pytest.approx(1)
    result = asyncio.run(Anytime(every=2, max_tokens=6).run(PROMPT, fake(scripted(100)), None, Budget()))
    assert [c.path.text for c in result.candidates] == ["t\n" * k + "Answer: 1" for k in (2, 4, 6)]
    assert result.usage.generated_tokens == 6 + 3 * 2
    del model


def test_several_readings_vote():
    """Three drawn answers at the end of two thoughts: the majority has the binomial law."""
    law = law_of(Anytime(every=2, readings=3, max_tokens=2), read=lambda r: r.text, law=cut_short)
    p = right(2)
    most = p**3 + 3 * p**2 * (1 - p)
    assert law == pytest.approx({"t\nt\nAnswer: 1": most, "t\nt\nAnswer: 2": 1 - most})


def cut_short(prefix):
    return thinker(prefix) if prefix and prefix[-1] in ("Answer: ", "1", "2") else {"t\n": 1.0}


def torn(prefix):
    """Says 2 at once; after two thoughts 1 with 0.5, after three always 1."""
    if prefix and prefix[-1] in "12":
        return {"$": 1.0}
    k = prefix.count("t\n")
    if prefix and prefix[-1] == "Answer: ":
        return {"1": 1.0} if k >= 3 else {"2": 1.0}
    if k == 0:
        return {"t\n": 0.5, "Answer: ": 0.5}
    return {"t\n": 1.0} if k < 3 else {"Answer: ": 1.0}


def test_the_long_mode_runs_where_the_cheap_ones_disagree():
    """Law of answers and of the number of calls: long chains iff direct and short differ."""
    method = ThinkingMode(short_tokens=3)
    law = law_of(method, read=lambda r: (r.answer, len(r.candidates)), law=torn, budget=Budget(generations=3))
    # Direct says 2. Short: half end at once with 2 and agree; half think three times, cut, and say 1.
    # Long is then one whole chain (N - 2), which says 2 or 1 with a half each.
    assert law == pytest.approx({("2", 2): 0.5, ("2", 3): 0.25, ("1", 3): 0.25})
    for mode, expected in (
        ("direct", {"2": 1.0}),
        ("short", {"2": 0.5, "1": 0.5}),
        ("long", {"2": 0.5, "1": 0.5}),
    ):
        single = ThinkingMode(mode=mode, short_tokens=3)
        assert law_of(
            single, read=lambda r: r.answer, law=torn, budget=Budget(generations=1)
        ) == pytest.approx(expected)


def a_rule(model, *, q_wrong=0.5, q_right=0.5, cue="step", way_out="answer"):
    """A probe that reads P(Answer) off the fake model's law: weight on one entry of it."""
    weights = [0.0] * len(VOCABULARY)
    weights[VOCABULARY.index("Answer: ")] = 10.0
    probe = Probe("hidden", (0.0,) * 7, (1.0,) * 7, tuple(weights), -5.0)
    return ExitRule(model.identity, probe, q_wrong, q_right, 0.1, "question", cue, way_out)


def growing(prefix):
    """Ever likelier to answer: P(Answer) is 0.2 a thought."""
    if prefix and prefix[-1] in "12":
        return {"$": 1.0}
    if prefix and prefix[-1] == "Answer: ":
        return {"1": 1.0}
    p = min(0.2 * prefix.count("t\n"), 1.0)
    return {"t\n": 1 - p, "Answer: ": p}


def test_early_exit_leaves_at_the_first_confident_cue(tmp_path):
    """By the probe, and by the two thresholds together; the file survives."""
    model = fake(growing)
    file = tmp_path / "exit.json"
    for q_wrong, q_right, thoughts in ((0.5, 0.5, 3), (0.9, 0.5, 4), (0.5, 0.005, 5)):
        rule = a_rule(model, q_wrong=q_wrong, q_right=q_right)
        rule.to_calibration({"questions": 3}).save(file)
        assert ExitRule.load(file) == rule
        law = enumerate_law(lambda rng: _text(EarlyExit(calibration=str(file)), rng))
        # It leaves once p(x) = sigmoid(10 P(Answer) - 5) crosses; before, the chain may end by itself.
        assert max(text.count("t\n") for text in law) == thoughts
        assert set(law) == {"t\n" * k + "Answer: 1" for k in range(1, thoughts + 1)}


async def _text(method, rng):
    return (await method.run(PROMPT, fake(growing), None, Budget(), rng)).text


def test_too_few_examples_promise_nothing(tmp_path):
    """ceil((n + 1)(1 - delta)) > n: the quantile is infinite, and saved so, and there is no exit."""
    assert conformal_quantile([0.1] * 18, 0.05) == math.inf
    assert conformal_quantile([0.1] * 19, 0.05) == 0.1
    model = fake(growing)
    rule = ExitRule.calibrate(
        model.identity, a_rule(model).probe, [[(0.9, True)]] * 5, delta=0.1, unit="question"
    )
    assert rule.q_wrong == math.inf
    file = tmp_path / "exit.json"
    rule.to_calibration({}).save(file)
    assert ExitRule.load(file).q_wrong == math.inf
    result = asyncio.run(EarlyExit(calibration=str(file)).run(PROMPT, model, None, Budget(), 1))
    assert not any(step.forced for step in result.candidates[0].path.steps)


@pytest.mark.parametrize("delta", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("unit", ["question", "event"])
def test_the_promise_holds_over_a_thousand_streams(delta, unit):
    """Each stream: 60 questions to calibrate on, one new one; of 1,000 at most delta err.

    A question's cues share a difficulty, so they depend on each other, and p is an uncalibrated
    score. The bound is delta plus three standard errors: a false alarm once in 700 at the worst.
    """
    rng = np.random.default_rng(7)
    probe = a_rule(fake(growing)).probe
    hard = rng.normal(size=(1000, 61, 1))
    ok = rng.random((1000, 61, 5)) < 1 / (1 + np.exp(hard - 0.5 * np.arange(1, 6)))
    scores = 1 / (1 + np.exp(-(1.2 * ok - 0.5 * hard + rng.normal(size=ok.shape))))
    errors = looks = 0
    for p, right_ in zip(scores.tolist(), ok.tolist(), strict=True):
        *seen, new = [list(zip(*pair, strict=True)) for pair in zip(p, right_, strict=True)]
        rule = ExitRule.calibrate("m", probe, seen, delta=delta, unit=unit)
        if unit == "question":
            looks += 1
            left = next((good for score, good in new if rule.leaves(score)), None)
            errors += left is False
        elif not (cue := new[int(rng.integers(5))])[1]:  # a cue of its own, if its answer is wrong
            looks += 1
            errors += rule.leaves(cue[0])
    assert looks > 200
    assert errors / looks <= delta + 3 * math.sqrt(delta * (1 - delta) / looks)


def test_without_its_threshold_the_promise_would_break():
    """The clipped quantile (largest score where it should be infinite) errs more than delta: not vacuous."""
    rng = np.random.default_rng(1)
    errors = 0
    for _ in range(2000):
        scores = rng.random(5)
        clipped = sorted(scores)[min(math.ceil(6 * 0.95), 5) - 1]
        errors += rng.random() > clipped
    assert errors / 2000 > 0.1
    assert conformal_quantile(scores.tolist(), 0.05) == math.inf


def test_cues_may_be_words():
    """A whole word in the step, whatever its case; the way out is before that step."""
    root = Path.root(PROMPT)
    first = root.child(Step((0,), "We add.\n", End.BOUNDARY))
    second = first.child(Step((0,), "Wait, no.\n", End.BOUNDARY))
    third = second.child(Step((0,), "The waiter waits.\n", End.BOUNDARY))
    cue = cue_of("wait|hmm")
    assert cue.at(second) is first
    assert cue.at(first) is None
    assert cue.at(third) is None
    assert cue_of("step").at(third) is third
    with pytest.raises(OptionError, match="empty word"):
        cue_of("wait||hmm")


def test_a_box_opened_by_the_exit_is_read():
    r"""What follows \boxed{ up to the line's end is the answer, cut off or not."""
    assert closed("so \\boxed{12\nmore") == "so \\boxed{12}\nmore"
    assert closed("\\boxed{12") == "\\boxed{12}"
    assert closed("\\boxed{1}") == "\\boxed{1}"

    def law(prefix):
        return {"t\n": 1.0} if "Answer: \\boxed{" not in prefix else {"7": 1.0}

    model = FakeModel(law, vocabulary=["t\n", "Answer: \\boxed{", "7", "$"], boundary="\n")
    method = BudgetForcing(thinking=2, exit="Answer: \\boxed{", answer_tokens=1)
    assert asyncio.run(method.run(PROMPT, model, None, Budget())).answer == "7"


def test_what_cannot_work_is_refused(tmp_path):
    """Options out of range, a rule of another model, a broken file, a model that cannot be forced."""
    for method, options, why in (
        (BudgetForcing, {"thinking": 0}, "thinking is 0"),
        (BudgetForcing, {"waits": -1}, "waits is -1"),
        (BudgetForcing, {"waits": 1, "wait": ""}, "wait is empty"),
        (BudgetForcing, {"answer_tokens": 0}, "answer_tokens"),
        (BudgetForcing, {"exit": ""}, "exit is empty"),
        (EntropyExit, {"window": 0}, "window"),
        (EntropyExit, {"threshold": 0}, "threshold"),
        (EntropyExit, {"signal": "entropi"}, "did you mean 'entropy'"),
        (Anytime, {"every": 0}, "at least 1"),
        (ThinkingMode, {"mode": "lang"}, "did you mean 'long'"),
        (ThinkingMode, {"short_tokens": 0}, "short_tokens"),
    ):
        with pytest.raises(OptionError, match=why):
            method(**options)
    file = tmp_path / "exit.json"
    with pytest.raises(CalibrationError, match="no calibration at"):
        EarlyExit(calibration=str(file))
    a_rule(fake(growing, name="other")).to_calibration({}).save(file)
    model = fake(growing)

    def run(method, asked=model):
        return asyncio.run(method.run(PROMPT, asked, None, Budget()))

    with pytest.raises(CalibrationError, match="belongs to model other"):
        run(EarlyExit(calibration=str(file)))
    with pytest.raises(OptionError, match="calibration=FILE"):
        run(EarlyExit())
    with pytest.raises(OptionError, match="needs forcing"):
        run(BudgetForcing(), fake(capabilities=frozenset({Capability.STEPS})))
    unseeing = fake(growing, name="other", capabilities=frozenset(Capability) - {Capability.HIDDEN})
    with pytest.raises(OptionError, match="needs hidden"):
        run(EarlyExit(calibration=str(file)), unseeing)
    file.write_text(file.read_text().replace('"bias"', '"bais"'))
    with pytest.raises(CalibrationError, match="broken"):
        EarlyExit(calibration=str(file))
    with pytest.raises(AllFailedError, match="could not begin"):
        run(BudgetForcing(), fake(fail=lambda call: True))
    assert model.calls == 0


def test_a_chain_cut_by_time_returns_what_there_is():
    """A limit that binds before anything was said: the stop reason says so, and there is no answer."""
    model = fake(scripted(100), latency_s=0.05)
    result = asyncio.run(BudgetForcing().run(PROMPT, model, None, Budget(seconds=0.01)))
    assert result.stop_reason is StopReason.SECONDS
    assert result.answer is None
