from __future__ import annotations

import asyncio
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from itscale import cli
from itscale.bench import report
from itscale.bench.costs import ModelShape, Prices
from itscale.bench.modelled import on_hardware
from itscale.bench.report import MOST_BYTES, report_of
from itscale.bench.store import Run, RunFolder, read_run
from itscale.bench.sweep import run_sweeps
from itscale.bench.viewer import Texts, compact
from itscale.budget import Budget
from itscale.embedded import REASONER
from itscale.errors import OptionError
from itscale.methods import Majority, ParticleCascade, ParticleFilter
from itscale.methods.base import Result
from tests.bench.worlds import CoinScorer, coin_model, coin_sweep

METHODS = ("greedy", "majority", "best-of-n", "beam:width=2", "particle-filter:ess_threshold=1")
HOSTILE = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Five methods on 24 coins, with traces and a hostile question."""
    folder = tmp_path_factory.mktemp("run")
    sweep = coin_sweep(METHODS, budgets=(1, 4, 16), count=24)
    swept = {"task": "coins", "level": 1, "seed": 0, "model": "m", "scorer": "s"}
    with RunFolder(folder, swept, {"title": "Is thinking worth it & why?"}, trace_mb=64) as store:
        store.keep_problems("coins", sweep.problems)
        asyncio.run(run_sweeps([sweep], coin_model(), CoinScorer(), on_row=store.append))
    text = (folder / "problems.jsonl").read_text()
    (folder / "problems.jsonl").write_text(
        text.replace('"Call coin', json.dumps(HOSTILE)[:-1] + " Call coin")
    )
    return read_run(folder)


def embedded(page: str, name: str) -> dict:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


class Addresses(html.parser.HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [str(v) for k, v in attrs if k in ("src", "href", "srcset", "data") and v]


def test_the_page_needs_nothing_else(run: Run):
    """No address in it, and a policy that forbids any."""
    page = report_of(run).html
    parser = Addresses()
    parser.feed(page)
    assert parser.found == []
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert "url(" not in page


def test_text_cannot_leave_its_place(run: Run):
    """A question that closes a script is shown, not run: no `<` of ours comes from data."""
    page = report_of(run).html
    assert "</script><script>document.title" not in page
    assert embedded(page, "data")["contexts"][0]["problems"][0]["q"].startswith(HOSTILE)
    assert "<title>Is thinking worth it &amp; why?</title>" in page


def test_every_figure_is_that_of_the_rows(run: Run):
    """Accuracy, tokens and comparisons on the page are recomputed from the log."""
    [context] = embedded(report_of(run).html, "data")["contexts"]
    assert context["runs"] == len(run.rows)
    for cell in context["cells"]:
        own = [r for r in run.rows if (r.method, r.budget) == (cell["method"], cell["n"])]
        assert cell["acc"] == pytest.approx(sum(r.correct for r in own) / len(own), abs=1e-4)
        assert cell["tokens"] == pytest.approx(
            sum(r.usage.generated_tokens for r in own) / len(own), abs=1e-3
        )
        assert cell["lo"] <= cell["acc"] <= cell["hi"] <= 1
    assert max(c["acc"] for c in context["cells"]) == context["cells"][context["best"]]["acc"]
    for pair in context["pairs"]:
        assert context["cells"][pair["b"]]["method"] == "majority"
        assert pair["diff"] == pytest.approx((pair["only_a"] - pair["only_b"]) / pair["n"], abs=1e-4)
        assert pair["p"] <= pair["holm"]
    assert sum(bin_["problems"] for bin_ in context["bins"]) == 24
    assert all(len(p["marks"]) == len(context["cells"]) for p in context["problems"])


def test_the_page_is_small_whatever_the_traces(run: Run, monkeypatch: pytest.MonkeyPatch):
    """Traces are left out until it fits, the most telling ones last; never the figures."""
    whole = report_of(run)
    assert whole.traced > 100
    assert len(whole.html.encode()) <= MOST_BYTES
    skeleton = len(whole.html.encode()) - len(report._embedded(embedded(whole.html, "traces")))
    monkeypatch.setattr(report, "MOST_BYTES", skeleton + 30_000)
    small = report_of(run)
    assert 0 < small.traced < whole.traced
    assert len(small.html.encode()) <= skeleton + 30_000
    [context] = embedded(small.html, "data")["contexts"]
    shown = {trace["problem"] for trace in embedded(small.html, "traces")["runs"]}
    assert context["disputed"][0] in shown


def test_a_run_without_rows_has_no_report(tmp_path: Path):
    """Nor a folder without a run; both say what to do."""
    with RunFolder(tmp_path / "run", {"task": "coins"}, {}):
        pass
    with pytest.raises(OptionError, match="no finished run yet"):
        report_of(read_run(tmp_path / "run"))
    done = CliRunner().invoke(cli.app, ["report", str(tmp_path)])
    assert done.exit_code == 2
    assert "holds no run" in done.stderr


def test_the_command_writes_page_pictures_columns_and_table(run: Run, tmp_path: Path):
    """From rows alone, and again whenever asked; the folder's log is not touched."""
    folder = tmp_path / "copy"
    shutil.copytree(run.path, folder)
    before = (folder / "results.jsonl").read_bytes()
    for _ in range(2):
        done = CliRunner().invoke(cli.app, ["report", str(folder)])
        assert done.exit_code == 0, done.output
    for name in ("report.html", "table.md", "accuracy.png", "accuracy.svg", "results.parquet"):
        assert (folder / name).stat().st_size > 0
    assert (folder / "results.jsonl").read_bytes() == before


def result_of(method: object, n: int) -> Result:
    assert isinstance(method, Majority | ParticleCascade | ParticleFilter)
    return asyncio.run(method.run("Call it.", coin_model(), CoinScorer(), Budget(generations=n), seed=1))


def plain(result: Result) -> dict:
    return {
        "chosen": result.chosen,
        "candidates": [
            {"path": p, "answer": c.answer, "score": c.score, "weight": c.weight, "correct": True}
            for p, c in zip(result.path_ids, result.candidates, strict=True)
        ],
        "events": result.trace.to_json(),
    }


def test_a_filter_is_shown_round_by_round():
    """Grow, resample, grow, choose; every slot of a resampling is a node; scores sit on their steps."""
    result, texts = result_of(ParticleFilter(ess_threshold=1.0), 8), Texts()
    shown = compact(plain(result), texts)
    assert [frame["kind"] for frame in shown["frames"]] == ["grow", "resample", "grow", "choose"]
    for frame, slots in ((0, 8), (2, 8)):
        weights = dict(map(tuple, shown["frames"][frame]["weights"]))
        assert sum(weights.values()) == pytest.approx(1, abs=1e-3)
        assert all(shown["nodes"][node][5] == frame for node in weights)
        assert 1 <= shown["frames"][frame]["ess"] <= slots
    assert len({weight for _, weight in shown["frames"][0]["weights"]}) == 2  # thinking weighs more
    assert len(shown["frames"][1]["paths"]) == len(shown["frames"][1]["weights"]) == 8
    assert [node[5] for node in shown["nodes"]] == [-1] + [0] * 8 + [2] * 8
    assert all(node[4] in (0.8, 0.3, 0.7, 0.4) for node in shown["nodes"][1:])
    assert all(c["node"] is not None and shown["nodes"][c["node"]][5] == 2 for c in shown["candidates"])
    assert sum(c["weight"] for c in shown["candidates"]) == pytest.approx(1, abs=1e-3)


def test_a_cascade_shows_its_weights_too():
    """Each of its two steps is weighed once, in the frame in which its last path came."""
    shown = compact(plain(result_of(ParticleCascade(), 8)), Texts())
    weighed = [dict(map(tuple, frame["weights"])) for frame in shown["frames"] if frame.get("weights")]
    assert [round(sum(weights.values()), 3) for weights in weighed] == [1, 1]
    assert len(set(weighed[0].values())) == 2
    assert {c["node"] for c in shown["candidates"]} == weighed[1].keys()


def test_whole_samples_are_one_round():
    """However many steps an answer has, N samples grow in one frame, each a chain from the prompt."""
    shown = compact(plain(result_of(Majority(), 4)), Texts())
    assert [frame["kind"] for frame in shown["frames"]] == ["grow", "choose"]
    depth = [0] * len(shown["nodes"])
    for i, node in enumerate(shown["nodes"][1:], start=1):
        depth[i] = depth[node[0]] + 1
    assert sorted(depth) == [0, 1, 1, 1, 1, 2, 2, 2, 2]


def test_an_event_of_a_later_kind_is_shown_by_its_name():
    """The viewer does not break on what it does not know."""
    events = [{"event": "merged", "paths": [0]}, {"event": "chosen", "path": 0}]
    shown = compact({"events": events, "candidates": [], "chosen": 0}, Texts())
    assert [frame["kind"] for frame in shown["frames"]] == ["merged", "choose"]


@pytest.mark.slow
def test_a_browser_draws_it_and_runs_nothing_of_the_data(run: Run, tmp_path: Path):
    """In headless Chromium: every section is drawn, the hostile question is text, the title is ours."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    prices = Prices({}, {}, {"": ModelShape.read(REASONER / "config.json")})
    page = report_of(run, on_hardware("h100", prices)).save(tmp_path / "report.html")
    quiet = [
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
    ]
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-quic", "--disable-sync", *quiet,
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,900", "--virtual-time-budget=3000",
         "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    drawn = done.stdout
    assert "<title>Is thinking worth it &amp; why?</title>" in drawn
    for place in ("cost-chart", "pairs-chart", "anytime-chart", "pass-chart"):
        assert re.search(rf'id="{place}"><svg', drawn), place
    for law in ("coverage", "saturation", "choice", "verifier"):
        assert re.search(rf'id="{law}"><h3>[^<]+</h3><figure><svg', drawn), law
    assert "modelled on h100" in drawn
    assert drawn.count('class="node') > 8
    assert drawn.count("<canvas") == 1
    assert "&lt;/script&gt;&lt;script&gt;" in drawn
    parser = Addresses()
    parser.feed(drawn)
    assert parser.found == []
