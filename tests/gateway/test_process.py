"""The real process on loopback: sockets, signals, workers, slow clients."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from itscale.errors import OptionError
from itscale.gateway.config import single
from itscale.gateway.server import serve

pytestmark = [pytest.mark.server, pytest.mark.slow]
DELAY_S = 1.0


async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that thinks for a second about a slow question and answers all others at once."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.split(b"content-length:")[1].split()[0]) if b"content-length" in head else 0
            body = await reader.readexactly(length)
            if b"slow" in body:
                await asyncio.sleep(DELAY_S)
            said = {"data": [{"id": "tiny"}]} if b"/models" in head.split()[1] else {"said": "42"}
            answer = json.dumps(said).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(file: Path, upstream_port: int, **server: Any) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The process with that configuration, ready."""
    port = free_port()
    settings = "".join(f"{name} = {json.dumps(value)}\n" for name, value in {"port": port, **server}.items())
    spec = f"openai:tiny@http://127.0.0.1:{upstream_port}/v1"
    file.write_text(f'[server]\n{settings}\n[models.tiny]\nspec = "{spec}"\n')
    log = (file.parent / "log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-c", "from itscale.cli import main; main()", "serve", str(file)],
        stderr=log,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            assert time.monotonic() < deadline, "the gateway did not become ready"
            assert process.poll() is None, "the gateway ended at its start"
            try:
                if httpx.get(f"{url}/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        yield process, url
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)
        log.close()


def body(text: str) -> bytes:
    return json.dumps({"model": "tiny", "messages": [{"role": "user", "content": text}]}).encode()


def test_a_real_process_from_start_to_drain(tmp_path: Path):
    """Answers; cuts off a head that never ends; reads its file again; loses nothing on SIGTERM."""

    async def run() -> None:
        server = await asyncio.start_server(upstream, "127.0.0.1", 0)
        file = tmp_path / "gateway.toml"
        port = server.sockets[0].getsockname()[1]
        manager = serving(file, port, header_timeout_s=0.5, drain_s=0.5)
        process, url = await asyncio.to_thread(manager.__enter__)
        try:
            async with httpx.AsyncClient(timeout=20) as client:
                answer = await client.post(f"{url}/v1/chat/completions", content=body("hi"))
                assert answer.json() == {"said": "42"}
                await slow_head(int(url.rpartition(":")[2]))
                await reloaded(client, url, file)
                slow = [
                    asyncio.ensure_future(client.post(f"{url}/v1/chat/completions", content=body("slow")))
                    for _ in range(20)
                ]
                await asyncio.sleep(0.3)
                process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.1)
                async with httpx.AsyncClient() as fresh:
                    assert (await fresh.get(f"{url}/ready")).status_code == 503
                answers = await asyncio.gather(*slow)
                assert [r.json() for r in answers] == [{"said": "42"}] * 20
            await asyncio.to_thread(process.wait, 20)
        finally:
            await asyncio.to_thread(manager.__exit__, None, None, None)
            server.close()

    asyncio.run(run())


async def slow_head(port: int) -> None:
    """A connection that never finishes its head is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-slow: ")
    try:
        async with asyncio.timeout(10):
            assert await reader.read() == b""
    except ConnectionResetError:
        pass
    writer.close()


async def reloaded(client: httpx.AsyncClient, url: str, file: Path) -> None:
    """A broken file changes nothing; a good one adds its preset."""
    good = await asyncio.to_thread(file.read_text)
    broken = good + "[presets.p]\nmodel = 'nobody'\nmethod = 'majority'\n"
    await asyncio.to_thread(file.write_text, broken)
    await asyncio.sleep(1.5)
    assert (await client.get(f"{url}/v1/models/tiny")).status_code == 200
    fresh = good + "[presets.fresh]\nmodel = 'tiny'\nmethod = 'majority'\n"
    await asyncio.to_thread(file.write_text, fresh)
    for _ in range(100):
        if (await client.get(f"{url}/v1/models/fresh")).status_code == 200:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("the new configuration was not read")


def test_a_port_that_is_taken_is_said_in_one_sentence(tmp_path: Path):
    """Where, why, and what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = single("embedded", None, None, "127.0.0.1", port)
        with pytest.raises(
            OptionError, match=rf"127\.0\.0\.1:{port} \(Address already in use\); give another"
        ):
            serve(config, None, print)


def test_sighup_is_heard_by_every_worker_and_restarts_none(tmp_path: Path):
    """Each says that it read its file again; the processes are the same, so nothing is loaded again."""

    async def run() -> tuple[str, set[int], set[int]]:
        server = await asyncio.start_server(upstream, "127.0.0.1", 0)
        manager = serving(tmp_path / "gateway.toml", server.sockets[0].getsockname()[1], workers=2)
        process, _ = await asyncio.to_thread(manager.__enter__)
        try:
            await asyncio.sleep(2.0)  # both have begun to watch
            before = children(process.pid)
            process.send_signal(signal.SIGHUP)
            await asyncio.sleep(2.0)
            return (tmp_path / "log").read_text(), before, children(process.pid)
        finally:
            await asyncio.to_thread(manager.__exit__, None, None, None)
            server.close()

    log, before, after = asyncio.run(run())
    assert before == after
    assert len(before) >= 2
    events = [json.loads(line)["event"] for line in log.splitlines() if line.startswith("{")]
    assert events.count("configuration read again") == 2


def children(pid: int) -> set[int]:
    """The processes that a process has started and that live."""
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_workers_share_one_port_and_one_page_of_metrics(tmp_path: Path):
    """Two processes answer, what each counted is added up, and on SIGTERM nothing is lost."""

    async def run() -> str:
        server = await asyncio.start_server(upstream, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        manager = serving(tmp_path / "gateway.toml", port, workers=2, drain_s=0.5)
        process, url = await asyncio.to_thread(manager.__enter__)
        try:
            for _ in range(10):
                async with httpx.AsyncClient(timeout=20) as client:
                    assert (
                        await client.post(f"{url}/v1/chat/completions", content=body("hi"))
                    ).status_code == 200
            async with httpx.AsyncClient(timeout=20) as client:
                told = (await client.get(f"{url}/metrics")).text
                slow = [
                    asyncio.ensure_future(client.post(f"{url}/v1/chat/completions", content=body("slow")))
                    for _ in range(20)
                ]
                await asyncio.sleep(0.5)
                process.send_signal(signal.SIGTERM)
                assert [r.json() for r in await asyncio.gather(*slow)] == [{"said": "42"}] * 20
            assert await asyncio.to_thread(process.wait, 20) in (0, -signal.SIGTERM)
            return told
        finally:
            await asyncio.to_thread(manager.__exit__, None, None, None)
            server.close()

    text = asyncio.run(run())
    assert 'route="/v1/chat/completions",status="200"} 10.0' in text
