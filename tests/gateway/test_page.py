"""The playground in a real browser, against a real process."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
GATEWAY = """
import sys, uvicorn
from tests.gateway.worlds import World, toy
world = World(toy(latency_s=0.01))
said = b'{"choices": [{"index": 0, "delta": {"content": "it is 42"}}]}'
world.upstream.pieces = [b"data: %s\\n\\n" % said, b"data: [DONE]\\n\\n"]
uvicorn.run(world.gateway, port=int(sys.argv[1]), log_level="error")
"""
PAGE = Path(__file__).parents[2] / "src/itscale/gateway/page"


def _browsed(url: str, profile: Path, budget_ms: int) -> subprocess.CompletedProcess[str]:
    """What the browser shows at `url` after that much of its own time, which runs ahead of a busy machine's:
    whoever finds something still running there looks again for longer."""
    assert CHROMIUM is not None
    flags = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={profile}", f"--virtual-time-budget={budget_ms}", "--dump-dom"),
    ]
    return subprocess.run([CHROMIUM, *flags, url], capture_output=True, text=True, timeout=120, check=True)


def _shown(link: str, profile: Path) -> subprocess.CompletedProcess[str]:
    """What a browser shows of a link to a gateway of its own, once nothing runs any more."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", GATEWAY, str(port)])
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while True:
            try:
                assert httpx.get(f"{url}/health").status_code == 200
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        for budget_ms in (20_000, 100_000, 500_000):
            shown = _browsed(f"{url}/#{link}", profile, budget_ms)
            if "state running" not in shown.stdout:
                break
        return shown
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_a_plain_model_of_a_server_beside_a_method(tmp_path: Path):
    """Its answer passes as it is: a text without a tree, and no refusal of what only methods know."""
    shown = _shown("prompt=pick+one&left=far&right=majority/toy&n=4&seed=1&run", tmp_path)
    assert shown.stdout.count('class="state done"') == 2, shown.stdout[-3000:]
    assert "it is 42" in shown.stdout


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_two_runs_side_by_side(tmp_path: Path):
    """A link starts them; trees, answers and the comparison are there, and the policy stops nothing."""
    shown = _shown("prompt=pick+one&left=particle-filter/toy&right=majority/toy&n=4&seed=1&run", tmp_path)
    dom, said = shown.stdout, shown.stderr
    assert dom.count('class="state done"') == 2, dom[-3000:]
    assert dom.count('class="tree"') == 2
    assert dom.count('class="legend"') == 1  # a vote judges nothing
    assert dom.count('class="step') == 2 * 4 * 2
    assert dom.count('class="answer"') == 2
    assert "What each cost" in dom
    assert "Content Security Policy" not in said


def test_the_page_names_no_other_host_and_has_nothing_inline():
    """No script, style or handler in the HTML, no address elsewhere in our own files."""
    html = (PAGE / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", html)
    for file in PAGE.iterdir():
        if file.name.endswith(("html", "js", "css")):
            hosts = re.findall(r"https?://[\w.]+", file.read_text())
            assert set(hosts) <= {"http://www.w3.org"}, file.name


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_a_saved_trace_replays_to_the_same_tree():
    """run.js by itself: events in, the same nodes, lanes and drops out, live or from a file."""
    script = """
    import { emptyRun, take, saved, opened, votes, textOf } from "./run.js";
    const events = [
      { event: "proposed", path: 1, parent: 0, text: "a", tokens: 1, end: "boundary", at: 0.1 },
      { event: "proposed", path: 2, parent: 0, text: "b", tokens: 1, end: "boundary", at: 0.1 },
      { event: "scored", path: 1, scores: [0.9], at: 0.2 },
      { event: "weighed", paths: [1, 2, 1], weights: [0.5, 0.2, 0.3], ess: 2.6, at: 0.25 },
      { event: "resampled", paths: [1, 1], weights: [0.9, 0.1], ess: 1.2, log_evidence: 0, at: 0.3 },
      { event: "proposed", path: 3, parent: 1, text: "c", tokens: 2, end: "eos", at: 0.4 },
      { event: "chosen", path: 3, at: 0.5 },
    ];
    const play = (list) => list.reduce(take, emptyRun({ model: "m" }));
    const live = play(events);
    const weighed = [...play(events.slice(0, 4)).weights];
    const again = play(opened(JSON.parse(JSON.stringify(saved(live)))).events);
    const told = (run) => [...run.nodes.values()].map((n) => [n.id, n.lane, n.depth, n.dropped ?? false]);
    console.log(JSON.stringify({
      weighed, live: told(live), again: told(again), text: textOf(live, 3), tokens: live.tokens,
      votes: votes({ candidates: [
        { answer: "x", weight: 0.25, score: 1 }, { answer: "y", weight: 0.75, score: null } ] }),
    }));
    """
    made = subprocess.run(
        ["node", "--input-type=module", "-e", script],
        cwd=PAGE,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    )
    said = json.loads(made.stdout)
    assert said["live"] == said["again"]
    assert [row for row in said["live"] if row[3]] == [[2, 1, 1, True]]
    assert said["weighed"] == [[1, 0.8], [2, 0.2]]
    assert said["text"] == "ac"
    assert said["tokens"] == 4
    assert [row["answer"] for row in said["votes"]] == ["y", "x"]
