"""What a comparison needs running: the reasoner on vLLM, the scorer's service, the peers' environments."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import httpx

from itscale.embedded import REASONER

__all__ = ["ROOT", "Counts", "Server", "environment", "process", "scorer", "vllm"]

ROOT = Path(__file__).parents[2]
START_S = 600.0
OFFLINE = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}  # fmt: skip
PEERS = {
    "its_hub": (["its_hub[lm]==1.2.0"], []),
    # Its 36 requirements bring models of faces and browsers; these are what its proxy loads.
    "optillm": (
        [
            *("torch==2.13.0", "openai", "flask", "cerebras_cloud_sdk", "httpx", "aiohttp", "requests"),
            *(
                "azure-identity",
                "numpy",
                "networkx",
                "z3-solver<=4.15.4.0",
                "math-verify",
                "PyYAML",
                "litellm",
            ),
        ],
        ["optillm==0.4.0"],
    ),
}
"""What each is installed from: with and without what it requires."""


@dataclass(frozen=True)
class Counts:
    """What the model server has counted; differences of two are what a cell took."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompts, those found in the prefix cache."""
    generated_tokens: int = 0
    requests: int = 0
    """That generate."""
    connections: int = 0
    """TCP connections that such a request came on for the first time."""

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Server:
    """A vLLM server that serves the embedded reasoner as `embedded`."""

    url: str
    log: Path | None = None
    """Its own log, with a line for each request; without it requests and connections are not known."""

    def counts(self) -> Counts:
        """What it has counted so far."""
        text = httpx.get(self.url.removesuffix("/v1") + "/metrics", timeout=30).text
        asked = _ACCESS.findall(self.log.read_text(errors="replace")) if self.log is not None else []
        return Counts(
            _metric(text, "prompt_tokens_total"),
            _metric(text, "prefix_cache_hits_total"),
            _metric(text, "generation_tokens_total"),
            len(asked),
            len(set(asked)),
        )


_ACCESS = re.compile(r"127\.0\.0\.1:(\d+) - \"POST /v1/(?:chat/)?completions")


def _metric(text: str, name: str) -> int:
    values = re.findall(rf"(?m)^vllm:{name}(?:{{[^}}]*}})? (\S+)$", text)
    return round(sum(map(float, values)))


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def process(
    command: list[str], ready: str, log: Path, *, cwd: Path = ROOT, **more: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A server, from when it answers at `ready` until the block is left; its output goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        child = _started(command, out, cwd, {**os.environ, **more})
        try:
            deadline = time.monotonic() + START_S
            while not _answers(ready):
                if child.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{command[0]} did not start; see {log}")
                time.sleep(0.5)
            yield child
        finally:
            for sent in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(child.pid, sent)
                    child.wait(20)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    continue
            child.wait()


def _started(command: list[str], out: IO[bytes], cwd: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=out, stderr=out, start_new_session=True)  # noqa: S603


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def vllm(program: str, folder: Path) -> Iterator[Server]:
    """A server on a free port, its prefix cache on in the smallest blocks that its CPU build has.

    No prompt is read in parts: where one with a seed is, vllm-cpu 0.32.0 ends ("CPU Generator does not use
    offset"), for everybody.
    """
    port = free_port()
    log = folder / "vllm.log"
    command = [program, "serve", str(REASONER), "--served-model-name", "embedded", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--dtype", "float32", "--max-model-len", "256", "--enforce-eager"]
    command += ["--max-num-seqs", "256", "--block-size", "32", "--enable-prefix-caching"]
    command += ["--max-num-batched-tokens", "16384"]
    command += ["--enable-prompt-tokens-details"]
    url = f"http://127.0.0.1:{port}/v1"
    folder.mkdir(parents=True, exist_ok=True)
    own = {"PYTHONPATH": "", **OFFLINE}
    with process(command, f"{url}/models", log, cwd=folder, **own):
        yield Server(url, log)


@contextmanager
def scorer(folder: Path) -> Iterator[str]:
    """The scorer's service; its URL."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.peers.scoring", str(port)]
    with process(command, f"http://127.0.0.1:{port}/ready", folder / "scoring.log", OMP_NUM_THREADS="1"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def optillm(python: str, url: str, n: int, folder: Path) -> Iterator[str]:
    """OptiLLM's proxy in front of the relay to `url`, with best-of-n of `n`; its URL."""
    relay, port = free_port(), free_port()
    between = f"http://127.0.0.1:{relay}/v1"
    empty = folder / "empty"  # it loads plugins from where it is started
    empty.mkdir(parents=True, exist_ok=True)
    command = [str(Path(python).with_name("optillm")), "--base-url", between, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--best-of-n", str(n), "--log", "error"]
    own = {"OPENAI_API_KEY": "none", "PYTHONPATH": ""}
    relaying = [sys.executable, "-m", "benchmarks.peers.relay", str(relay), url]
    with (
        process(relaying, f"{between}/models", folder / "relay.log"),
        process(command, f"http://127.0.0.1:{port}/health", folder / "optillm.log", cwd=empty, **own),
    ):
        yield f"http://127.0.0.1:{port}"


def environment(name: str, python: str | None) -> str:
    """The Python of a peer's own environment: the one given, or one under `.peers/`, made now if need be."""
    if python is not None:
        return python
    home = ROOT / ".peers" / name
    own = home / "bin" / "python"
    if not (home / "installed").exists():
        print(f"installing {name} into {home}", flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(home)])
        pip = [str(own), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        whole, bare = PEERS[name]
        _run([*pip, *whole])
        if bare:
            _run([*pip, "--no-deps", *bare])
        (home / "installed").touch()
    return str(own)


def _run(command: list[str]) -> Any:
    return subprocess.run(command, check=True)  # noqa: S603  commands of this file alone
