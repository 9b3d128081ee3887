"""A sweep spread over a Ray cluster: its workers ask model and scorer, this process keeps rows and calls.

Law: the rows are those of the local runner, with the same seeds and the same store; apart from what
depends on what an engine happened to have in its cache (seconds, cached and scorer tokens). A worker
that dies, alone or with its node, is replaced, and what it had not finished is run again. Every answer
that was paid for is kept in one recording beside this process before the run that asked goes on, so
whatever is run again is charged alike and pays only for the calls that were in flight.

A problem is run by one worker, so that samples are shared as they are locally. Needs Ray (extra `ray`)
and the same itscale on every node; the cluster is that of RAY_ADDRESS or of this machine, else one is
started here for as long as the sweep takes.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itscale.bench.rows import Row, RowKey
from itscale.bench.sweep import OnRow, Sweep, run_sweeps
from itscale.errors import ClusterError, OptionError
from itscale.methods.arrivals import together
from itscale.models.base import Model
from itscale.recording import Address, Calls, Recording
from itscale.scorers.base import Scorer
from itscale.version import __version__

__all__ = ["Load", "on_cluster", "run_on_ray"]

Load = Callable[[Calls], AbstractAsyncContextManager[tuple[Model, Scorer | None]]]
"""Model and scorer that remember in the given recording; sent to every worker."""

FRUITLESS = 3
"""Workers that may die one after the other in one place while not a single row is finished anywhere."""

Finished = tuple[Row, Mapping[str, Any] | None]


@contextmanager
def on_cluster() -> Iterator[Any]:
    """The module `ray`, connected; what was started for it is stopped afterwards.

    Raises:
        OptionError: Ray is not installed, or there is no cluster at RAY_ADDRESS.
    """
    try:
        ray: Any = importlib.import_module("ray")  # untyped, and perhaps not there
    except ImportError as error:
        raise OptionError('--runner ray needs Ray; pip install "itscale[ray]"') from error
    ours = not ray.is_initialized()
    if ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # What a later Ray will do anyway: hide no GPU from whoever asked for none. Silences a warning.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            ray.init(log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise OptionError(
                f"no Ray cluster to run on ({error}); see RAY_ADDRESS and ray status, and set "
                "RAY_AUTH_MODE=token for a cluster that asks for a token"
            ) from error
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


async def run_on_ray(
    ray: Any,
    sweeps: Sequence[Sweep],
    load: Load,
    *,
    recording: Path,
    offline: bool = False,
    on_row: OnRow,
    done: Collection[RowKey] = (),
    concurrency: int,
    traces: bool = True,
    workers: int | None = None,
) -> int:
    """Run what is not `done` on the cluster, as `run_sweeps` does here.

    Args:
        ray: the connected module, see `on_cluster`.
        sweeps: they share model and scorer.
        load: gives every worker its model and scorer.
        recording: the file of every call, on this machine.
        offline: answer from the recording alone.
        on_row: keeps the row; called here.
        done: keys of rows that exist.
        concurrency: runs in flight on each worker.
        traces: give `on_row` the traces.
        workers: how many; by default one a GPU, or one a node where the cluster has none.

    Returns:
        Generated tokens that were charged to rows without being generated again.

    Raises:
        ClusterError: workers die again and again.
        Whatever else `run_sweeps` raises, as it was raised on the worker.
    """
    finished = set(done)
    keys: dict[str, list[RowKey]] = {}
    for sweep in sweeps:
        for key in sweep.keys:
            keys.setdefault(key.problem, []).append(key)
    waiting = deque(problem for problem, own in keys.items() if not finished.issuperset(own))
    # A recording that cannot be opened says so here, and not on some node.
    Recording(recording, offline=offline).close()
    keeper = _keeper(ray, recording, offline)
    cells = max(map(len, keys.values()))
    plan = {"concurrency": min(concurrency, cells), "traces": traces}
    crew = _Crew(
        ray=ray,
        start=_starter(ray, sweeps, load, _FromAfar(recording, offline, keeper), plan),
        on_row=on_row,
        finished=finished,
        waiting=waiting,
        lanes=-(-concurrency // cells),
    )
    try:
        await together([crew.place() for _ in range(min(workers or _places(ray), len(waiting)))])
    finally:
        ray.kill(keeper)
    return crew.shared


# -- on this machine --------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Crew:
    """The problems that wait, and those who take them."""

    ray: Any
    start: Callable[[], Any]
    on_row: OnRow
    finished: set[RowKey]
    waiting: deque[str]
    lanes: int
    """Problems in flight on each worker."""
    shared: int = 0
    _open: int = 0
    """Problems in flight anywhere: each may come back."""
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def place(self) -> None:
        """One worker after the other, until all is finished."""
        fruitless = 0
        while not self._over():
            worker, before = self.start(), len(self.finished)
            try:
                if await self._ready(worker):
                    await together([self._lane(worker) for _ in range(self.lanes)])
            except self.ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except self.ray.exceptions.RayError as error:
                fruitless = fruitless + 1 if len(self.finished) == before else 0
                if fruitless == FRUITLESS:
                    raise ClusterError(
                        f"{FRUITLESS} workers in a row died before a single run was finished; the last: "
                        f"{_sentence(error)}; see the logs of Ray, then go on with --resume"
                    ) from None
            finally:
                self.ray.kill(worker)

    async def _ready(self, worker: Any) -> bool:
        """Whether the worker has loaded; False if all was finished before it got so far."""
        loading = asyncio.create_task(_awaited(worker.ready.remote(__version__)))
        over = asyncio.create_task(self._until(self._over))
        try:
            await asyncio.wait([loading, over], return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
            return loading.done()
        finally:
            loading.cancel()
            over.cancel()

    async def _lane(self, worker: Any) -> None:
        """Problem after problem on one worker; one that was not finished waits again."""
        while problem := await self._next():
            whole = False
            try:
                own = [key for key in self.finished if key.problem == problem]
                async for reference in worker.run.options(num_returns="streaming").remote(problem, own):
                    self._take(await reference)
                whole = True
            finally:
                async with self._news:
                    self._open -= 1
                    if not whole:
                        self.waiting.appendleft(problem)
                    self._news.notify_all()

    async def _next(self) -> str | None:
        """The next problem, also one that comes back yet; None when all are finished."""
        await self._until(lambda: bool(self.waiting) or self._over())
        if not self.waiting:
            return None
        self._open += 1
        return self.waiting.popleft()

    def _over(self) -> bool:
        return not self.waiting and not self._open

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with self._news:
            await self._news.wait_for(condition)

    def _take(self, given: Finished | int) -> None:
        if isinstance(given, int):
            self.shared += given
        elif given[0].key not in self.finished:
            self.finished.add(given[0].key)
            self.on_row(*given)


def _places(ray: Any) -> int:
    """One a GPU, else one a node that has a CPU."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    return gpus or max(1, sum(node["Alive"] and node["Resources"].get("CPU", 0) >= 1 for node in ray.nodes()))


def _starter(
    ray: Any, sweeps: Sequence[Sweep], load: Load, calls: Calls, plan: Mapping[str, Any]
) -> Callable[[], Any]:
    """A function that starts a worker, on the least used node; what each is given is sent once."""
    gpu = 1 if ray.cluster_resources().get("GPU", 0) else 0
    kind = ray.remote(num_cpus=1, num_gpus=gpu, scheduling_strategy="SPREAD")(_Worker)
    given = ray.put((list(sweeps), load, calls, dict(plan), str(Path.cwd())))
    return lambda: kind.remote(given)


def _keeper(ray: Any, file: Path, offline: bool) -> Any:
    """The actor that has the recording, on this very node: other nodes may die. Asking it twice is
    harmless, for the first answer kept is the answer."""
    here = ray.get_runtime_context().get_node_id()
    strategies: Any = importlib.import_module("ray.util.scheduling_strategies")
    stay = strategies.NodeAffinitySchedulingStrategy(here, soft=False)
    kind = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=stay)(_Keeper)
    return kind.remote(str(file.absolute()), offline)


def _sentence(error: Exception) -> str:
    """The last line of what Ray has to say, which is long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


async def _awaited(reference: Any) -> Any:
    return await reference


# -- on the nodes -----------------------------------------------------------------------------------


class _Keeper:
    """Has the recording open; async, so that what waits together is committed together."""

    def __init__(self, file: str, offline: bool) -> None:
        self._recording = Recording(Path(file), offline=offline)

    async def at(self, addresses: Sequence[Address], texts: Sequence[str]) -> list[str | None]:
        return await self._recording.at(addresses, texts)


class _FromAfar(Calls):
    """The recording, as workers see it."""

    def __init__(self, file: Path, offline: bool, keeper: Any) -> None:
        super().__init__(file, offline=offline)
        self._keeper = keeper

    def __reduce__(self) -> tuple[Any, ...]:
        return _FromAfar, (self.file, self.offline, self._keeper)  # locks stay at home

    async def at(self, addresses: Sequence[Address], texts: Sequence[str] = ()) -> list[str | None]:
        # Shielded, so that a cancelled run still keeps what it has paid for.
        found: list[str | None] = await asyncio.shield(_awaited(self._keeper.at.remote(addresses, texts)))
        return found


class _Worker:
    """Model and scorer, loaded once; runs the problems it is given, several at a time."""

    def __init__(self, given: tuple[list[Sweep], Load, Calls, dict[str, Any], str]) -> None:
        self._sweeps, load, calls, self._plan, folder = given
        if Path(folder).is_dir():
            os.chdir(folder)  # a shared file system: paths in specs mean what they mean on the driver
        self._loading = load(calls)
        self._model: Model | None = None
        self._scorer: Scorer | None = None

    async def ready(self, version: str) -> None:
        """Loads.

        Raises:
            OptionError: this node has another itscale, or what the model needs is not on it.
        """
        if version != __version__:
            raise OptionError(
                f"a node of the cluster has itscale {__version__} and not {version}; install the same on all"
            )
        self._model, self._scorer = await self._loading.__aenter__()

    async def run(self, problem: str, done: Sequence[RowKey]) -> AsyncIterator[Finished | int]:
        """Every row of a problem that is not done, as it is finished; at last the tokens shared."""
        assert self._model is not None
        rows: asyncio.Queue[Finished | None] = asyncio.Queue()
        running = asyncio.create_task(
            run_sweeps(
                self._sweeps, self._model, self._scorer, only={problem}, done=done, **self._plan,
                on_row=lambda row, trace: rows.put_nowait((row, trace)),
            )
        )  # fmt: skip
        running.add_done_callback(lambda _: rows.put_nowait(None))
        try:
            while (finished := await rows.get()) is not None:
                yield finished
            yield await running
        finally:
            running.cancel()
