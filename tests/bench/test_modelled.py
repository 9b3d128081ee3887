from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from itscale import cli
from itscale.bench.costs import ModelShape, modelled_cost, read_prices, reading_cost
from itscale.bench.modelled import modelled_figures, modelled_tables, on_hardware
from itscale.bench.rows import Row
from itscale.bench.statistics import cells_of, summarise
from itscale.budget import Usage
from itscale.embedded import PROCESS_SCORER, REASONER
from itscale.errors import OptionError
from tests.bench.worlds import play_coins


def row(method: str, n: int, *, calls: int, prompt: int, tokens: int, scorer_tokens: int = 0) -> Row:
    usage = Usage(
        prompt_tokens=prompt,
        generated_tokens=tokens,
        model_calls=calls,
        scorer_tokens=scorer_tokens,
        seconds=2.0,
    )
    return Row(
        task="countdown", model="embedded", scorer="embedded", problem="p", level=4, method=method, budget=n,
        seed=0, correct=True, any_correct=True, answer="1", stop_reason="done", error=None, usage=usage,
    )  # fmt: skip


SAMPLED = row("best-of-n", 4, calls=4, prompt=52, tokens=120, scorer_tokens=150)
STEPPED = row("beam", 4, calls=16, prompt=432, tokens=120, scorer_tokens=137)


def test_a_cell_costs_what_its_runs_would_alone():
    """N answers side by side on the problem's own prompt, also where a method reads longer prefixes, and
    one pass of the scorer; a pass of the scorer adds its operations and its time."""
    hardware = on_hardware("h100", read_prices(None))
    assert hardware is not None
    shape = ModelShape.read(REASONER / "config.json")
    made = modelled_cost(shape, hardware.machine, prompt=13, generated=30, samples=4)
    judge = ModelShape.read(PROCESS_SCORER / "config.json")
    whole = made + reading_cost(judge, hardware.machine, tokens=137, context=43)
    assert whole.flops > 1.5 * made.flops
    assert whole.seconds > made.seconds
    rows = [SAMPLED, STEPPED]
    told = modelled_figures(rows, summarise(rows, cells_of(rows)), hardware)
    at = len(told["measured"])
    assert told["measured"] == ["tokens", "scorer tokens", "seconds"]
    assert told["rows"][1][:at] == ["120", "137", "2 s"]
    assert told["rows"][1][at] == f"{whole.flops / 1e9:.3g} G"
    assert told["rows"][1][told["columns"].index("ideal time") + at] == f"{whole.seconds * 1e6:.3g} µs"
    unjudged = replace(STEPPED, scorer="none", usage=replace(STEPPED.usage, scorer_tokens=0))
    alone = [SAMPLED, unjudged]
    [_, told_alone] = modelled_figures(alone, summarise(alone, cells_of(alone)), hardware)["rows"]
    assert told_alone[at] == f"{made.flops / 1e6:.3g} M"


def test_a_scorer_reads_as_the_closed_form_says():
    """Twice the parameters and the mean context's attention a token; bound by its weights when few."""
    shape = ModelShape(parameters=1000, layers=2, heads=4, kv_heads=2, head_size=8)
    machine = read_prices(None).accelerator("h100")
    cost = reading_cost(shape, machine, tokens=10, context=6)
    assert cost.attention_flops == 4 * 10 * 3 * 4 * 16
    assert cost.flops == 2 * 1000 * 10 + cost.attention_flops
    assert cost.seconds == pytest.approx((2 * 2 * 10 * 2 * 16 + 2000) / machine.bandwidth)
    with pytest.raises(ValueError, match="below 0"):
        reading_cost(shape, machine, tokens=-1, context=6)


def test_a_served_model_has_the_shape_the_price_file_gives(tmp_path: Path):
    """Without it the sentence says what to add; with it and a price, dollars are among what was measured."""
    (tmp_path / "small.json").write_text((REASONER / "config.json").read_text())
    prices = tmp_path / "prices.toml"
    prices.write_text(
        '[models."openai:small@http://x/v1"]\ngenerated_usd = 100\n[accelerators.mine]\nflops = 1e12\n'
        'bandwidth = 1e11\nusd_per_hour = 36\n[shapes]\n"openai:small@http://x/v1" = "small.json"\n'
    )
    served = replace(SAMPLED, model="openai:small@http://x/v1", usage=replace(SAMPLED.usage, dollars=0.012))
    summaries = summarise([served], cells_of([served]))
    bare = on_hardware("h100", read_prices(None))
    assert bare is not None
    with pytest.raises(OptionError, match=r"openai:small.*\[shapes\]"):
        modelled_tables([served], [summaries], bare)
    hardware = on_hardware("mine", read_prices(prices))
    assert hardware is not None
    [(_, markdown)] = modelled_tables([served], [summaries], hardware)
    assert "| price |" in markdown
    assert "$0.012" in markdown
    assert "machine time |" in markdown
    assert "energy" not in markdown.splitlines()[2]  # no power was stated


def test_the_command_shows_measured_and_modelled_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In the terminal, in table.md and on the page; and again from the rows, on another machine."""
    play_coins(monkeypatch.setattr)
    words = ["bench", "coins", "--methods", "best-of-n", "--budgets", "1,4", "--problems", "4"]
    out = ["--out", str(tmp_path / "run")]
    done = CliRunner().invoke(cli.app, [*words, *out, "--hardware", "h100"])
    assert done.exit_code == 0, done.output
    assert "modelled on h100" in done.output
    assert "modelled on h100" in (tmp_path / "run" / "table.md").read_text()
    assert '"hardware":"h100"' in (tmp_path / "run" / "report.html").read_text()
    again = CliRunner().invoke(cli.app, ["report", str(tmp_path / "run"), "--hardware", "l4"])
    assert again.exit_code == 0, again.output
    assert '"hardware":"l4"' in (tmp_path / "run" / "report.html").read_text()
    assert "modelled on l4" in (tmp_path / "run" / "table.md").read_text()


@pytest.mark.parametrize("command", [["bench", "countdown"], ["report", "somewhere"]])
def test_unknown_hardware_is_refused_before_anything_runs(command: list[str], tmp_path: Path):
    """With the closest known one; nothing is written."""
    out = ["--out", str(tmp_path / "run")] if command[0] == "bench" else []
    done = CliRunner().invoke(cli.app, [*command, *out, "--hardware", "h10"])
    assert done.exit_code == 2
    assert "did you mean 'h100'" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_classifier_has_no_vocabulary_to_project_to(tmp_path: Path):
    """The scorer's parameters are the trunk and two labels, not the model's 144 words."""
    told = json.loads((REASONER / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps(
            told | {"architectures": ["LlamaForTokenClassification"], "id2label": {"0": "a", "1": "b"}}
        )
    )
    whole, judge = ModelShape.read(REASONER / "config.json"), ModelShape.read(tmp_path / "config.json")
    assert whole.parameters - judge.parameters == (told["vocab_size"] - 2) * told["hidden_size"]
