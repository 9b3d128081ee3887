"""Methods that stop a chain: laws by enumeration, lengths, budgets, promises."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import numpy as np
import pytest

from itscale.budget import Budget, Price
from itscale.errors import AllFailedError, OptionError
from itscale.events import Proposed
from itscale.methods import Anytime, BudgetForcing, EntropyExit, ThinkingMode
from itscale.methods.entropy_exit import deviation
from itscale.methods.exiting import closed
from itscale.models.base import Capability
from itscale.models.fake import FakeModel
from itscale.testing import enumerate_law
from itscale.types import Prompt, StopReason

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


def test_what_a_method_says_itself_is_in_the_trace_and_not_in_its_tokens():
    """A wait and an exit are steps of the path that nobody generated."""
    method = BudgetForcing(thinking=8, waits=1, wait="Hmm\n")
    result = asyncio.run(method.run(PROMPT, fake(scripted(3)), None, Budget()))
    proposed = [event for event in result.trace.events if isinstance(event, Proposed)]
    assert {event.text for event in proposed if not event.tokens} == {"Hmm\n", "Answer: "}
    assert sum(event.tokens for event in proposed) == result.usage.generated_tokens


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
@pytest.mark.parametrize("limit", ["tokens", "dollars"])
def test_a_token_limit_leaves_an_answer(method, tokens, limit):
    """An endless thinker under a limit, on tokens or on what they cost, answers within it."""
    model = fake(scripted(100), price=Price(generated_usd=1e6))
    result = asyncio.run(method.run(PROMPT, model, None, Budget(**{limit: tokens})))
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


def test_what_cannot_work_is_refused():
    """Options out of range, a model that cannot be forced, one whose first call fails."""
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
    with pytest.raises(OptionError, match="needs forcing"):
        asyncio.run(
            BudgetForcing().run(PROMPT, fake(capabilities=frozenset({Capability.STEPS})), None, Budget())
        )
    with pytest.raises(AllFailedError, match="could not begin"):
        asyncio.run(BudgetForcing().run(PROMPT, fake(fail=lambda call: True), None, Budget()))


def test_a_chain_cut_by_time_returns_what_there_is():
    """A limit that binds before anything was said: the stop reason says so, and there is no answer."""
    model = fake(scripted(100), latency_s=0.05)
    result = asyncio.run(BudgetForcing().run(PROMPT, model, None, Budget(seconds=0.01)))
    assert result.stop_reason is StopReason.SECONDS
    assert result.answer is None


def test_endings_taken_back_count_against_the_cap():
    """Five tokens are dropped with the first ending; two more of thinking reach the cap of seven."""
    model = fake(scripted(2))
    result = asyncio.run(BudgetForcing(waits=5, wait="Hmm\n", thinking=7).run(PROMPT, model, None, Budget()))
    assert result.text == "t\nt\nHmm\nt\nt\nAnswer: 1"
    assert model.tokens_generated == 7 + 2


def test_there_is_no_entropy_exit_before_the_window_is_full():
    """A threshold that any chain exceeds leaves at the window's length, not before."""
    method = EntropyExit(window=3, threshold=0.5, max_tokens=12)
    result = asyncio.run(method.run(PROMPT, fake(bursting), None, Budget(), 0))
    assert sum(not step.forced for step in result.candidates[0].path.steps) - 1 == 3
