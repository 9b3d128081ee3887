"""Real servers on this machine: how each is started on the embedded checkpoint, and stopped again.

Where they are installed is `ITSCALE_SERVERS`, which `scripts/test-servers` fills and sets. A server
gets a free port of 127.0.0.1 and a session of its own, and is stopped by process id.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx

from itscale.embedded import PROCESS_SCORER, REASONER
from itscale.models.base import Capability

HOME = Path(os.environ.get("ITSCALE_SERVERS", ".servers")).absolute()
START_S = 900.0
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}
VLLM_ENVIRONMENT = {**OFFLINE, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
STEPS, SEEDS, LOGPROBS = Capability.STEPS, Capability.SEEDS, Capability.LOGPROBS
FORCING, GIVEN, STATISTICS = Capability.FORCING, Capability.GIVEN, Capability.TOKEN_STATISTICS
IN_TOKENS = frozenset({STEPS, SEEDS, LOGPROBS, FORCING, STATISTICS})


@dataclass(frozen=True)
class Backend:
    """A server: how it is started, and what it is known to honour."""

    name: str
    command: Callable[[int], list[str]]
    offers: frozenset[Capability]
    dialect: str
    environment: dict[str, str] = field(default_factory=dict)
    model: str = "embedded"
    n_in_one: bool = False
    """Whether n answers come in one request."""
    seeds_race: bool = False
    """Seeds hold for one request at a time only, so that the laws, which ask for several, may break."""

    @property
    def installed(self) -> bool:
        return Path(self.command(0)[0]).exists()


def gguf(kind: str) -> Path:
    """The exported reasoner, written on the fly."""
    file = HOME / f"reasoner-{kind}.gguf"
    if not file.exists():
        from recipes.export_gguf import export

        part = file.with_suffix(".part")
        export(REASONER, part, kind)
        part.rename(file)
    return file


def sampling_checkpoint() -> Path:
    """A copy of the reasoner that transformers serve samples from: it does so only where the checkpoint's
    generation_config.json says do_sample, whatever temperature a request names."""
    folder = HOME / "reasoner-sampling"
    if not folder.exists():
        part = HOME / "reasoner-sampling.part"
        shutil.copytree(REASONER, part, dirs_exist_ok=True)
        config = json.loads((part / "generation_config.json").read_text())
        config |= {"do_sample": True, "top_k": 0}
        (part / "generation_config.json").write_text(json.dumps(config))
        part.rename(folder)
    return folder


def vllm(port: int) -> list[str]:
    return [
        *(str(HOME / "vllm/bin/vllm"), "serve", str(REASONER), "--served-model-name", "embedded"),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "256"),
        *("--enforce-eager", "--max-num-seqs", "64", "--enable-prompt-tokens-details"),
        # vllm-cpu 0.32.0 ends when it reads a prompt with a seed in parts, which it does with many at once.
        *("--max-num-batched-tokens", "16384"),
    ]


def vllm_scorer(port: int) -> list[str]:
    return [
        *(str(HOME / "vllm/bin/vllm"), "serve", str(PROCESS_SCORER), "--served-model-name", "prm"),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "256"),
        *("--enforce-eager", "--max-num-seqs", "64", "--runner", "pooling"),
    ]


def llama_server(kind: str) -> Callable[[int], list[str]]:
    def command(port: int) -> list[str]:
        return [
            *(str(HOME / "llama.cpp/build/bin/llama-server"), "--model", str(HOME / f"reasoner-{kind}.gguf")),
            *("--alias", "embedded", "--host", "127.0.0.1", "--port", str(port), "--parallel", "8"),
            *("--ctx-size", "2048", "--threads", "1", "--no-webui", "--jinja"),
        ]

    return command


def llama_cpp_python(port: int) -> list[str]:
    return [
        *(str(HOME / "llama/bin/python"), "-m", "llama_cpp.server", "--model"),
        *(str(HOME / "reasoner-f32.gguf"), "--model_alias", "embedded", "--host", "127.0.0.1"),
        *("--port", str(port), "--n_ctx", "256", "--n_threads", "1"),
    ]


def transformers(port: int) -> list[str]:
    return [
        *(
            str(HOME / "vllm/bin/transformers"),
            "serve",
            str(HOME / "reasoner-sampling"),
            "--host",
            "127.0.0.1",
        ),
        *("--port", str(port), "--device", "cpu", "--dtype", "float32"),
    ]


BACKENDS = (
    Backend(
        "vllm",
        vllm,
        IN_TOKENS | {GIVEN},
        "token",
        VLLM_ENVIRONMENT,
        n_in_one=True,
    ),
    Backend("llama-server-f32", llama_server("f32"), IN_TOKENS, "llama"),
    Backend("llama-server-q8_0", llama_server("q8_0"), IN_TOKENS, "llama"),
    Backend("llama-cpp-python", llama_cpp_python, frozenset({SEEDS}), "chat"),
    # Its list of models is that of a download cache, which has to be there and may be empty.
    Backend(
        "transformers",
        transformers,
        frozenset({SEEDS}),
        "chat",
        {**OFFLINE, "HF_HUB_CACHE": str(HOME / "no-downloads")},
        model=str(HOME / "reasoner-sampling"),
        seeds_race=True,  # it sets torch's one generator at the start of each request
    ),
)


@contextmanager
def running(backend: Backend) -> Iterator[str]:
    """The URL of a started backend, with the files it serves written first. Errors are those of `serving`."""
    for kind in ("f32", "q8_0"):
        gguf(kind)
    sampling_checkpoint()
    with serving(backend.name, backend.command, backend.environment) as url:
        yield url


@contextmanager
def serving(name: str, command: Callable[[int], list[str]], environment: dict[str, str]) -> Iterator[str]:
    """The URL of a started server; when the block is left, it and what it started are gone.

    Raises:
        RuntimeError: it ended, or gave no answer within START_S seconds; says where its log is.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = HOME / f"{name}.log"
    with log.open("w") as out:
        process = start(command(port), environment, out)
        try:
            wait_for(process, f"http://127.0.0.1:{port}/v1", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            stop(process)


def start(command: list[str], environment: dict[str, str], out: IO[str]) -> subprocess.Popen[bytes]:
    """In a session of its own, far from this checkout: a server may import what lies in its folder."""
    work = HOME / "work"
    for folder in (work, HOME / "no-downloads"):
        folder.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.Popen(
        command, cwd=work, env=kept | environment, stdout=out, stderr=out, start_new_session=True
    )


def wait_for(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Until the server lists its models."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}; see {log}")
        try:
            if httpx.get(f"{url}/models", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise RuntimeError(f"the server gave no answer within {START_S:g} s; see {log}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """The process and whatever it started, which share its session."""
    for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sent)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
