"""The models and scorers one configuration names, loaded once, shared by all requests.

A server behind a model is reached when it is first needed, so that the gateway starts, and says
what is missing under `/ready`, while an upstream is down. A new configuration takes over whatever
it names in the same words; what it no longer names is closed once its last request has ended.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

import httpx

from itscale.errors import ModelError, OptionError
from itscale.gateway.admission import Gate
from itscale.gateway.config import Config, ModelEntry
from itscale.models.base import Capability, Model
from itscale.models.openai.address import Address, Key, find_key
from itscale.models.openai.client import Endpoint
from itscale.models.openai.concurrency import Concurrency
from itscale.models.openai.model import OpenAIModel
from itscale.models.openai.pool import transport_to
from itscale.models.openai.probe import is_offered, models_at
from itscale.registry import load_model, load_scorer
from itscale.scorers.base import Scorer
from itscale.types import Prompt

__all__ = ["Runtime", "ServedModel", "Transports"]

T = TypeVar("T")
Transports = Callable[[str], httpx.AsyncBaseTransport]
"""Makes the connections to the server at an address; tests give ones that end in this process."""


_ONE_AT_A_TIME = threading.Lock()
"""transformers is not made to load two checkpoints in two threads at once."""


async def _loaded(load: Callable[[str], T], spec: str) -> T:
    """What a spec stands for, loaded in a thread."""

    def one() -> T:
        with _ONE_AT_A_TIME:
            return load(spec)

    return await asyncio.to_thread(one)


class ServedModel:
    """One model of the configuration."""

    def __init__(self, name: str, entry: ModelEntry, transports: Transports, key: Key | None) -> None:
        self.name = name
        self.entry = entry
        self.gate = Gate(f"model {name!r}", entry.concurrency, entry.queue)
        self.users = 0
        """Requests that hold it."""
        self.retired = False
        self.address: Address | None = None
        """Of its server, if it has one."""
        self.key = key
        self.transport: httpx.AsyncBaseTransport | None = None
        self._endpoint: Endpoint | None = None
        self._model: Model | None = None
        self._whole: Model | None = None
        self._upstream_name: str | None = None
        self._reached = False
        self._loading = asyncio.Lock()
        kind, _, rest = entry.spec.partition(":")
        if kind == "openai":
            self.address = Address.parse(rest)
            self.transport = transports(self.address.url)
            self._endpoint = Endpoint(
                self.address,
                key,
                transport=self.transport,
                concurrency=Concurrency(entry.calls, max(entry.calls, 512)),
                attempts=3,
            )
            self._upstream_name = self.address.model or None

    async def model(self, prompt: Prompt | None = None) -> Model:
        """The model, loaded or connected to. For a prompt that says more than plain messages do, the
        server's chat side, which samples whole answers only.

        Raises:
            ModelError: it cannot be loaded or reached.
        """
        async with self._loading:
            if self._model is None:
                if self._endpoint is not None:
                    self._model = await OpenAIModel.connect(self._endpoint, price=self.entry.price)
                else:
                    self._model = await _loaded(load_model, self.entry.spec)
                    self._model.price = self.entry.price or self._model.price
        model = self._model
        if prompt is not None and prompt.more and isinstance(model, OpenAIModel):
            if model.facts.dialect != "chat" and self._whole is None:
                chat = replace(model.facts, dialect="chat", prefill=None, stop=None)
                self._whole = OpenAIModel(model.endpoint, chat, price=model.price)
            return self._whole or model
        return model

    async def upstream_name(self) -> str:
        """What its server calls it.

        Raises:
            ModelError: the server cannot be asked.
            OptionError: it offers several and the configuration names none.
        """
        assert self._endpoint is not None
        if self._upstream_name is None:
            offered = await models_at(self._endpoint)
            if len(offered) != 1:
                raise OptionError(
                    f"the server of model {self.name!r} offers {len(offered)} models; name one in its spec"
                )
            [self._upstream_name] = offered
        return self._upstream_name

    async def reach(self) -> None:
        """Load what runs in this process; see whether a server answers. Spends no token.

        Raises:
            ModelError: it cannot be loaded or reached.
        """
        if self._endpoint is None:
            await self.model()
        else:
            offered = await models_at(self._endpoint)
            if self._upstream_name is not None and not is_offered(self._upstream_name, offered):
                raise ModelError(f"its server does not offer {self._upstream_name!r}; see its list of models")
            self._reached = True

    @property
    def loaded(self) -> bool:
        """Whether it has been loaded or reached."""
        return self._model is not None or self._reached

    @property
    def takes_steps(self) -> bool:
        """Whether it answers step by step, as far as is known."""
        return self._model is not None and Capability.STEPS in self._model.capabilities

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Keep it open, whatever configuration comes meanwhile."""
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1
            if self.retired and not self.users:
                await self.close()

    async def retire(self) -> None:
        """Close it as soon as nobody holds it."""
        self.retired = True
        if not self.users:
            await self.close()

    async def close(self) -> None:
        """Release connections and memory."""
        if self._model is not None:
            await self._model.close()
        if self._endpoint is not None:
            await self._endpoint.close()
        if self.transport is not None:
            await self.transport.aclose()


class Runtime:
    """Everything a configuration names."""

    def __init__(
        self,
        config: Config,
        *,
        transports: Transports = transport_to,
        models: Mapping[str, Model] | None = None,
        scorers: Mapping[str, Scorer] | None = None,
        before: Runtime | None = None,
    ) -> None:
        """`models` and `scorers` are taken as they are, whatever their specs say (for tests and Python)."""
        self.config = config
        self.transports = transports
        keys = _keys(config)
        self.models: dict[str, ServedModel] = {}
        for name, entry in config.models.items():
            old = before.models.get(name) if before else None
            if old is not None and old.entry == entry:
                self.models[name] = old
            else:
                self.models[name] = ServedModel(name, entry, transports, keys.get(name))
                if models and name in models:
                    self.models[name]._model = models[name]
        self._scorers: dict[str, Scorer] = dict(scorers or {})
        if before is not None:
            same = {n for n, entry in config.scorers.items() if before.config.scorers.get(n) == entry}
            self._scorers |= {name: s for name, s in before._scorers.items() if name in same}
        self._judging = asyncio.Lock()

    async def scorer(self, name: str | None) -> Scorer | None:
        """A scorer by its name in the configuration, loaded when first needed.

        Raises:
            OptionError, ModelError: it cannot be loaded.
        """
        if name is None or name == "none":
            return None
        async with self._judging:
            if name not in self._scorers:
                loaded = await _loaded(load_scorer, self.config.scorers[name].spec)
                if loaded is None:
                    return None
                loaded.price = self.config.scorers[name].price or loaded.price
                self._scorers[name] = loaded
        return self._scorers[name]

    async def load(self) -> list[str]:
        """Load what runs in this process, reach what does not; what could not be, in words."""
        found = await asyncio.gather(
            *(model.reach() for model in self.models.values()),
            *(self.scorer(name) for name in self.config.scorers),
            return_exceptions=True,
        )
        names = [*self.models, *self.config.scorers]
        return [
            f"{name}: {error}"
            for name, error in zip(names, found, strict=True)
            if isinstance(error, BaseException)
        ]

    async def retire(self, after: Runtime | None = None) -> None:
        """Close what the configuration after this one does not share."""
        kept = set(map(id, after.models.values())) if after else set()
        for model in self.models.values():
            if id(model) not in kept:
                await model.retire()
        kept_scorers = set(map(id, after._scorers.values())) if after else set()
        for scorer in self._scorers.values():
            if id(scorer) not in kept_scorers:
                await scorer.close()


def _keys(config: Config) -> dict[str, Key | None]:
    """The key of each model's server. One in ITSCALE_API_KEY is for one host, so never for several."""
    addresses = {
        name: Address.parse(entry.spec.partition(":")[2])
        for name, entry in config.models.items()
        if entry.spec.startswith("openai:")
    }
    environment = dict(os.environ)
    if len({address.host for address in addresses.values()}) > 1:
        environment.pop("ITSCALE_API_KEY", None)
    return {name: find_key(address, environment) for name, address in addresses.items()}
