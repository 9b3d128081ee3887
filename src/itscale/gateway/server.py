"""The process: uvicorn, a drain before the end, and a configuration that is read again when it changes.

On SIGTERM `/ready` turns 503 and every answer closes its connection, while new connections are
still taken for `drain_s`; then the socket closes, and what was accepted is answered. SIGHUP, or a
change of the file, reads the configuration again; a broken one is logged and the old one stays.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

import uvicorn
from uvicorn.supervisors import Multiprocess

from itscale.errors import ItscaleError, OptionError
from itscale.gateway.app import Gateway
from itscale.gateway.config import Config, read_config
from itscale.gateway.runtime import Runtime
from itscale.gateway.watching import LOG, json_logging

__all__ = ["ServedGateway", "collect_rarely", "from_environment", "serve", "settings"]

_CONFIG, _FILE = "ITSCALE_GATEWAY_CONFIG", "ITSCALE_GATEWAY_FILE"
LOOK_S = 1.0
"""How often the file is looked at."""


class ServedGateway(Gateway):
    """The application in a process of its own, which it hears the signals of: a worker, with its share of
    the limits."""

    def __init__(self, config: Config, file: Path | None) -> None:
        self._workers = config.server.workers
        super().__init__(Runtime(config.share(self._workers)))
        self._file = file
        self._seen = self._stamp()
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await super().start()
        self._drain_on(signal.SIGTERM)
        if self._file is not None:
            self._watching = asyncio.ensure_future(self._watch(self._file))

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await super().stop()

    def _drain_on(self, sig: signal.Signals) -> None:
        """Before the server's own handler, which closes the socket, look busy for a while."""
        close, loop = signal.getsignal(sig), asyncio.get_running_loop()

        def handle(number: int, frame: FrameType | None) -> None:
            wait_s = 0.0 if self.draining else self.runtime.config.server.drain_s
            self.draining = True
            if callable(close):
                loop.call_soon_threadsafe(loop.call_later, wait_s, close, number, frame)

        signal.signal(sig, handle)

    async def _watch(self, file: Path) -> None:
        hung_up = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hung_up.set)
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await hung_up.wait()
            except TimeoutError:
                if self._stamp() == self._seen:
                    continue
            hung_up.clear()
            self._seen = self._stamp()
            try:
                await self.reload(read_config(file).share(self._workers))
                LOG.info("configuration read again")
            except ItscaleError as error:
                LOG.error("configuration refused; the old one stays", extra={"fields": {"why": str(error)}})

    def _stamp(self) -> tuple[int, int]:
        try:
            found = self._file.stat() if self._file is not None else None
        except OSError:  # in the middle of being replaced
            return self._seen
        return (found.st_mtime_ns, found.st_size) if found else (0, 0)


def from_environment() -> Gateway:
    """The application of a worker, as the process that started it says.

    Raises:
        OptionError: the configuration is impossible.
    """
    json_logging()
    collect_rarely()
    config = Config.model_validate_json(os.environ[_CONFIG])
    file = Path(os.environ[_FILE]) if os.environ.get(_FILE) else None
    if file is not None:
        try:
            config = read_config(file)  # a worker that is started later begins with what the file says then
        except ItscaleError as error:
            LOG.error("configuration refused; the old one stays", extra={"fields": {"why": str(error)}})
    return ServedGateway(config, file)


def serve(config: Config, file: Path | None, started: Callable[[str], None]) -> None:
    """Serve until told to end. `started` is given the URL once the socket is bound.

    Raises:
        OptionError: nobody can listen there, or somebody else does.
    """
    os.environ[_CONFIG] = config.model_dump_json()
    os.environ[_FILE] = str(file.resolve()) if file is not None else ""
    ours = settings(config)
    _many_files()
    with tempfile.TemporaryDirectory(prefix="itscale-metrics-") as folder, _bound(config) as listening:
        host, port = listening.getsockname()[:2]
        started(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        if config.server.workers > 1:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
            json_logging()
            _Workers(ours, sockets=[listening]).run()
        else:
            uvicorn.Server(ours).run(sockets=[listening])


class _Workers(Multiprocess):
    """Several processes on one socket. SIGHUP is for each of them to hear: their models stay loaded."""

    def handle_hup(self) -> None:
        for process in self.processes:
            if process.pid is not None and process.exitcode is None:
                os.kill(process.pid, signal.SIGHUP)


def settings(
    config: Config, app: str | Callable[[], Gateway] = "itscale.gateway.server:from_environment"
) -> uvicorn.Config:
    """uvicorn's settings for a configuration; `app` makes the application."""
    server = config.server
    return uvicorn.Config(
        app,
        factory=True,
        host=server.host,
        port=server.port,
        workers=server.workers,
        http="itscale.gateway.protocol:Guarded",
        interface="asgi3",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=4096,
        timeout_keep_alive=round(server.keep_alive_s),
        timeout_graceful_shutdown=round(server.shutdown_s),
    )


def collect_rarely() -> None:
    """Have Python look for cyclic garbage less often, and never among what is there before the first request.

    Requests leave next to none, and looking took about a tenth of their CPU time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def _many_files() -> None:
    """A connection is a file, and the usual soft limit of 1,024 is for programs that know no better."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _bound(config: Config) -> socket.socket:
    host, port = config.server.host, config.server.port
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise OptionError(
            f"cannot listen at {host}:{port} ({error.strerror}); give another port, or end what listens there"
        ) from None
    listening.set_inheritable(True)
    return listening
