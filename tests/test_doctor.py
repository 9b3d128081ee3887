"""The doctor finds what is wrong with a backend, and nothing wrong with a right one."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from itscale import cli
from itscale.budget import Ledger
from itscale.doctor import (
    EMBEDDED_QUESTIONS,
    QUESTIONS,
    Finding,
    Report,
    Verdict,
    diagnose,
    examine,
    facts_table,
    spec_of,
)
from itscale.errors import ModelError, PromptError
from itscale.models.base import Capability, Model
from itscale.models.fake import FakeModel
from itscale.randomness import Randomness
from itscale.types import End, Path, Sampling, Step, Until
from tests.models.openai.servers import ANSWERS, BASE, Server, connected, ok

CHECKS = [
    *("stepwise greedy", "stop handling", "samples differ", "n", "seeds", "logprobs", "entropies", "usage"),
    "length",
]


def broken(findings: list[Finding]) -> bool:
    return Report({"model": "x"}, findings).broken


def verdicts(findings: list[Finding]) -> dict[str, Verdict]:
    return {finding.check: finding.verdict for finding in findings}


def examined(server: Server) -> list[Finding]:
    async def run() -> list[Finding]:
        return await examine(await connected(server))

    return asyncio.run(run())


class Faulty(Model):
    """The exact fake with one law broken."""

    def __init__(self, fault: str) -> None:
        self.name = "faulty"
        self.fault = fault
        self.capabilities = frozenset(Capability)
        self.calls = 0

    async def extend(
        self, path: Path, n: int, until: Until, sampling: Sampling, rng: Randomness, ledger: Ledger
    ) -> list[Path]:
        self.calls += 1
        if self.fault == "fails" and self.calls > 1:
            raise ModelError("call failed; ask again")
        if self.fault == "seeds":
            rng = rng.child(self.calls)
        children = await ANSWERS.extend(path, n, until, sampling, rng, ledger)
        if self.fault == "usage":
            ledger.generated_tokens += 1
        if self.fault == "samples differ":
            return [children[0]] * n
        return [self._spoilt(child, path, until) for child in children]

    def _spoilt(self, child: Path, parent: Path, until: Until) -> Path:
        step = child.step
        assert step is not None
        if self.fault == "logprobs":
            return parent.child(Step(step.token_ids, step.text, step.end, 0.5))
        if self.fault == "entropies":
            return parent.child(replace(step, token_entropies=(0.0,) * step.n_tokens))
        if self.fault == "length" and step.end is End.LENGTH:
            return child.parent.child(Step(step.token_ids, step.text, End.EOS, step.logprob))
        if self.fault == "stepwise greedy" and until.what == "step":
            return parent.child(Step((0,), "$", End.EOS, 0.0))
        if self.fault == "stop handling" and until.what == "step" and step.end is End.BOUNDARY:
            return parent.child(Step(step.token_ids, step.text + " ", step.end, 0.0))
        return child


def test_a_right_model_passes_everything():
    """The exact fake keeps every law."""
    findings = asyncio.run(examine(ANSWERS))
    assert verdicts(findings) == dict.fromkeys(CHECKS, Verdict.HONOURED)
    assert not broken(findings)


@pytest.mark.parametrize(
    "fault",
    [
        *("stepwise greedy", "stop handling", "samples differ", "seeds", "logprobs", "entropies", "usage"),
        "length",
    ],
)
def test_each_broken_law_is_found(fault: str):
    """A model that breaks one law has that law named as broken."""
    findings = asyncio.run(examine(Faulty(fault)))
    assert verdicts(findings)[fault] is Verdict.BROKEN
    assert broken(findings)


def test_a_failing_backend_is_broken_not_a_crash():
    """A call that fails during a check is a finding, with the error's sentence."""
    findings = asyncio.run(examine(Faulty("fails")))
    assert {finding.verdict for finding in findings} == {Verdict.BROKEN}
    assert {finding.detail for finding in findings} == {"call failed; ask again"}


def test_a_law_that_could_not_be_tried_is_said_to_be_so():
    """Answers of one token cannot be cut, so nothing is known of cutting."""
    short = FakeModel({(): {"$": 0.5, "yes$": 0.5}}, eos="$")
    short._next_token = {(): {"$": 1.0}}
    found = verdicts(asyncio.run(examine(short)))
    assert found["length"] is Verdict.NOT_CHECKED
    assert found["samples differ"] is Verdict.BROKEN  # all are the same, as far as one can see


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (Server(), {}),
        (Server(n="ignores"), {}),
        (Server(seeds=False), {"seeds": Verdict.NOT_OFFERED}),
        (Server(likeliest=None), {"entropies": Verdict.NOT_OFFERED}),
        (Server(tokens=False), {"entropies": Verdict.NOT_OFFERED}),
        (
            Server(tokens=False, logprobs=False),
            dict.fromkeys(("logprobs", "entropies"), Verdict.NOT_OFFERED),
        ),
        (
            Server(tokens=False, prefill=None),
            dict.fromkeys(("dialect", "stepwise greedy", "stop handling", "entropies"), Verdict.NOT_OFFERED),
        ),
        (Server(usage=lambda usage: {**usage, "completion_tokens": 99}), {"usage": Verdict.BROKEN}),
    ],
)
def test_servers_are_told_apart(server: Server, expected: dict[str, Verdict]):
    """What a server honours, does not offer and breaks, the dialect first."""
    honoured = dict.fromkeys(["dialect", *CHECKS], Verdict.HONOURED)
    assert verdicts(examined(server)) == honoured | expected


def test_n_says_how_many_requests_it_took():
    """One, or one a child where the server ignores n."""
    for n, said in (("honours", "in one request"), ("ignores", "take 4 requests")):
        [finding] = [finding for finding in examined(Server(n=n)) if finding.check == "n"]
        assert said in finding.detail


def test_a_model_of_its_own_tasks_is_asked_those():
    """Refused prompts are replaced by ones the embedded models read; a model that reads none raises."""

    class Narrow(FakeModel):
        reads = "Make "

        async def extend(self, path: Path, *rest: Any) -> list[Path]:
            if not path.prompt.question.startswith(self.reads):
                raise PromptError("the model cannot read this prompt")
            return await super().extend(path, *rest)

    model = Narrow(ANSWERS._next_token)
    assert not broken(asyncio.run(examine(model)))
    model.reads = "nothing"
    with pytest.raises(PromptError):
        asyncio.run(examine(model))


def test_a_served_model_of_few_words_is_asked_in_those():
    """Where most of a question is the one token for unknown words, the embedded models' are asked."""

    class Few(Server):
        async def _answer(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
            if path == "/tokenize" and "messages" in body:
                known = {"Make", "from", "2,", "3,", "5,", "7,", "9,", "11.", "12,", "17", "23.", "45"}
                words = body["messages"][0]["content"].split()
                ids = [BASE + len(word) + 10 * i if word in known else BASE for i, word in enumerate(words)]
                return ok({"tokens": ids})
            return await super()._answer(path, body, headers)

    for server, asked in ((Few(), EMBEDDED_QUESTIONS), (Server(), QUESTIONS)):
        assert not broken(examined(server))
        read = {body["messages"][0]["content"] for body in server.asked("/tokenize")}
        assert set(asked) <= read
        generated = server.asked("/v1/completions")
        assert generated
        assert not any(body["prompt"].count(BASE) > 1 for body in generated)


def shown(table: Any) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_the_table_shows_every_finding():
    """Names, verdicts and details as they are, brackets too."""
    report = Report({"model": "openai:[x]"}, [Finding("usage", Verdict.BROKEN, "[3] tokens")])
    text = shown(report.table())
    assert [word for word in ("openai:[x]", "usage", "broken", "[3] tokens") if word not in text] == []


def test_a_diagnosed_model_is_closed():
    """Also when the examination ends in an error."""

    class Closing(FakeModel):
        closed = 0

        async def close(self) -> None:
            self.closed += 1

    for fails, closed in ((False, 1), (True, 1)):
        model = Closing(ANSWERS._next_token, fail=lambda call, fails=fails: fails)
        if fails:
            with pytest.raises(ModelError):
                asyncio.run(diagnose(model))
        else:
            assert not asyncio.run(diagnose(model)).broken
        assert model.closed == closed


def run(*words: str) -> Any:
    return CliRunner().invoke(cli.app, list(words))


def test_the_command_prints_and_exits_by_the_findings(monkeypatch: pytest.MonkeyPatch):
    """0 when every law holds, 1 when one is broken; --json is the same as data."""
    monkeypatch.setattr(cli, "load_model", lambda spec: ANSWERS)
    right = run("doctor", "embedded")
    assert right.exit_code == 0, right.output
    assert "stepwise greedy" in right.stdout
    monkeypatch.setattr(cli, "load_model", lambda spec: Faulty("usage"))
    wrong = run("doctor", "embedded", "--json")
    assert wrong.exit_code == 1
    found = json.loads(wrong.stdout)
    assert found["model"] == "faulty"
    assert {f["check"] for f in found["findings"] if f["verdict"] == "broken"} == {"usage"}


def test_a_url_is_the_only_model_there(monkeypatch: pytest.MonkeyPatch):
    """`doctor URL` and `list models --probe URL` mean openai:@URL; a spec is taken as it is."""
    specs = []

    def load(spec: str) -> Model:
        specs.append(spec)
        return asyncio.run(connected(Server()))

    monkeypatch.setattr(cli, "load_model", load)
    assert run("doctor", "http://h:1/v1").exit_code == 0
    probed = run("list", "models", "--probe", "http://h:1/v1")
    assert probed.exit_code == 0, probed.output
    assert "token" in probed.stdout
    assert run("list", "models", "--probe", "openai:m@http://h:1/v1").exit_code == 0
    assert specs == ["openai:@http://h:1/v1"] * 2 + ["openai:m@http://h:1/v1"]


def test_probing_is_for_models():
    """Only models have servers, so --probe with anything else is refused."""
    refused = run("list", "methods", "--probe", "http://h:1/v1")
    assert refused.exit_code == 2
    assert "itscale list models --probe http://h:1/v1" in refused.stderr


def test_facts_are_shown_for_any_model():
    """Name and capabilities of every model, and what a probe found of a server."""
    assert "logprobs, seeds, self_certainty, steps" in shown(facts_table(ANSWERS))
    text = shown(facts_table(asyncio.run(connected(Server(n="ignores")))))
    assert "openai:tiny@http://127.0.0.1:8000/v1" in text
    assert [line.split()[-1] for line in text.splitlines() if line.split()[:1] == ["n"]] == ["no"]
    assert spec_of("hf:http") == "hf:http"
