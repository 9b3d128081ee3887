"""The gateway judged by clients nobody here wrote, each in an environment of its own, over a real socket.

`scripts/test-servers` installs them into ITSCALE_SERVERS; what is not there is not asked.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

pytestmark = [pytest.mark.server, pytest.mark.slow]
HOME = Path(os.environ.get("ITSCALE_SERVERS", ".servers")).absolute()
ROOT = Path(__file__).parents[2]
QUESTION = "Make 45 from 3, 7, 12, 23."
MODEL = "majority:n=4/embedded"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """`itscale serve` on the embedded model, ready."""
    yield from started(["-c", "from itscale.cli import main; main()", "serve", "--port"], "/ready")


@pytest.fixture
def stub_url() -> Iterator[str]:
    """A chat server that always has something to say."""
    yield from started([str(ROOT / "benchmarks/gateway/stub.py")], "/v1/models")


def started(command: list[str], path: str) -> Iterator[str]:
    """The /v1 of a server whose last argument is its port, from when it answers at `path`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, *command, str(port)], stderr=subprocess.DEVNULL)
    base = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 600
        while True:
            assert process.poll() is None, "the server ended at its start"
            assert time.monotonic() < deadline, "the server did not become ready"
            try:
                if httpx.get(f"{base}{path}", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        yield f"{base}/v1"
    finally:
        process.terminate()
        process.wait(30)


def python_of(venv: str) -> Path:
    python = HOME / venv / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{venv} is not installed in {HOME}")
    return python


def told_by(venv: str, script: str, url: str, folder: Path) -> str:
    """What a script prints, run in another environment."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "GATEWAY": url,
        "MODEL": MODEL,
        "QUESTION": QUESTION,
        "OPENAI_API_KEY": "none",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
    }
    made = subprocess.run(
        [str(python_of(venv)), "-c", script],
        capture_output=True,
        text=True,
        timeout=400,
        cwd=folder,
        env=environment,
    )
    assert made.returncode == 0, made.stderr[-3000:]
    return made.stdout


def test_curl(url: str):
    """Whole and streamed, as anybody would type it."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    asked = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}]}
    for stream in (False, True):
        made = subprocess.run(
            [curl, "-sN", f"{url}/chat/completions", "-d", json.dumps({**asked, "stream": stream})],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert "Answer: " in made.stdout
        assert made.stdout.endswith("data: [DONE]\n\n") is stream


def test_the_openai_sdk_in_its_blocking_form(url: str):
    """Over a socket, whole and streamed."""
    client = openai.OpenAI(base_url=url, api_key="none")
    whole = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], seed=1
    )
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], seed=1, stream=True
    )
    text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
    assert whole.choices[0].message.content == text


def test_langchain(url: str, tmp_path: Path):
    """ChatOpenAI: invoke, stream, usage metadata."""
    script = """
import os
from langchain_openai import ChatOpenAI
model = ChatOpenAI(
    base_url=os.environ["GATEWAY"], api_key="none", model=os.environ["MODEL"], stream_usage=True)
whole = model.invoke(os.environ["QUESTION"])
pieces = list(model.stream(os.environ["QUESTION"]))
total = pieces[0]
for piece in pieces[1:]:
    total += piece
assert whole.usage_metadata["output_tokens"] > 0, whole
assert total.usage_metadata["output_tokens"] > 0, total
print(whole.content, total.content)
"""
    assert told_by("clients", script, url, tmp_path).count("Answer: ") == 2


def test_litellm(url: str, tmp_path: Path):
    """completion: whole, streamed, and its own error for a refusal."""
    script = """
import os, litellm
asked = dict(model="openai/" + os.environ["MODEL"], api_base=os.environ["GATEWAY"], api_key="none",
             messages=[{"role": "user", "content": os.environ["QUESTION"]}])
whole = litellm.completion(**asked)
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
text = "".join(c.choices[0].delta.content or "" for c in litellm.completion(**asked, stream=True))
try:
    litellm.completion(**{**asked, "model": "openai/nobody"})
except litellm.NotFoundError:
    print(whole.choices[0].message.content, text)
"""
    assert told_by("clients", script, url, tmp_path).count("Answer: ") == 2


def test_inspect_ai(url: str, tmp_path: Path):
    """An evaluation through its OpenAI-compatible provider; usage ends up in its log."""
    script = """
import os
os.environ["GATEWAYS_API_KEY"], os.environ["GATEWAYS_BASE_URL"] = "none", os.environ["GATEWAY"]
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
task = Task(dataset=[Sample(input=os.environ["QUESTION"], target="45")], scorer=includes())
[log] = eval(task, model="openai-api/gateways/" + os.environ["MODEL"], display="none", log_dir="logs")
assert log.status == "success", log.error
usage = next(iter(log.stats.model_usage.values()))
assert usage.output_tokens > 0
print("usage", usage.input_tokens, usage.output_tokens, log.samples[0].output.completion)
"""
    assert "Answer: " in told_by("inspect", script, url, tmp_path)


def test_a_method_is_a_model_of_inspect_ai(stub_url: str, tmp_path: Path):
    """The provider is found by its entry point; the log has what was spent, the output how it was found; what
    is not honoured is refused by name."""
    found = tmp_path / "site/itscale-0.dist-info"
    found.mkdir(parents=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [(name, where)] = project["entry-points"]["inspect_ai"].items()
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: itscale\nVersion: 0\n")
    (found / "entry_points.txt").write_text(f"[inspect_ai]\n{name} = {where}\n")
    script = f"""
import os, sys
sys.path[:0] = [{str(found.parent)!r}, {str(ROOT / "src")!r}]
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
task = Task(dataset=[Sample(input=os.environ["QUESTION"], target="45")], scorer=includes())
def ask(**config):
    [log] = eval(task, model="itscale/openai:stub@" + os.environ["GATEWAY"], display="none", log_dir="logs",
                 model_args=dict(method="majority", n=4), seed=1, **config)
    return log
log = ask()
assert log.status == "success", log.error
output = log.samples[0].output
usage = next(iter(log.stats.model_usage.values()))
assert len(output.metadata["candidates"]) == 4, output.metadata
assert usage.output_tokens == sum(c["tokens"] for c in output.metadata["candidates"])
assert usage.total_tokens == usage.input_tokens + (usage.input_tokens_cache_read or 0) + usage.output_tokens
assert ask().samples[0].output.completion == output.completion  # one seed, one answer
refused = ask(logprobs=True)
assert refused.status == "error" and "logprobs is not honoured" in refused.error.message, refused.error
print(output.completion)
"""
    assert "Answer: " in told_by("inspect", script, stub_url, tmp_path)


def test_lm_evaluation_harness(url: str, tmp_path: Path):
    """A task of its own kind over `local-chat-completions`, which sends temperature 0, a seed and no stop."""
    (tmp_path / "data.jsonl").write_text(json.dumps({"question": QUESTION, "answer": "45"}) + "\n")
    (tmp_path / "made.yaml").write_text(
        "task: made\ndataset_path: json\ndataset_kwargs: {data_files: {test: data.jsonl}}\n"
        "output_type: generate_until\ntest_split: test\n"
        "doc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\n"
        "generation_kwargs: {max_gen_toks: 64, until: []}\nmetric_list: [{metric: exact_match}]\n"
    )
    script = """
import glob, json, os, subprocess, sys
program = os.path.join(os.path.dirname(sys.executable), "lm_eval")
command = [program, "run", "--model", "local-chat-completions", "--tasks", "made",
           "--include_path", ".", "--apply_chat_template", "--model_args",
           f"model={os.environ['MODEL']},base_url={os.environ['GATEWAY']}/chat/completions,tokenized_requests=False",
           "--output_path", "out", "--log_samples"]
subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
[file] = glob.glob("out/**/samples_made_*.jsonl", recursive=True)
[line] = open(file)
print(json.loads(line)["resps"])
"""
    assert "Answer: " in told_by("lmeval", script, url, tmp_path)
