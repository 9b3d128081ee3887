"""`itscale serve`: the gateway. What it needs is imported only when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from itscale.commands.sources import ModelOption, ScorerOption, said
from itscale.errors import OptionError

__all__ = ["serve"]


def serve(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Argument(
            help="A TOML file; see docs/gateway.md. Its limits are of all workers together.",
            metavar="CONFIG.toml",
        ),
    ] = None,
    model: ModelOption = "embedded",
    scorer: ScorerOption = None,
    method: Annotated[
        str | None, typer.Option(help="What the name `default` stands for; see: itscale list methods")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    check: Annotated[bool, typer.Option("--check", help="Only check the file.")] = False,
    new_key: Annotated[bool, typer.Option("--new-key", help="Print a new API key and its hash.")] = False,
) -> None:
    """Serve an OpenAI-compatible API: any client's base URL, and its answers get better."""
    try:
        from itscale.gateway.admission import hash_of
        from itscale.gateway.admission import new_key as make_key
        from itscale.gateway.config import read_config, single
        from itscale.gateway.server import serve as serve_forever
    except ImportError as error:
        raise OptionError(f'itscale serve needs more: pip install "itscale[gateway]" ({error})') from error
    if new_key:
        key = make_key()
        typer.echo(f"key (give it to the client, it is shown once):  {key}")
        typer.echo(f'hash (into the file, under [keys.NAME]):  hash = "{hash_of(key)}"')
        return
    for name, written in said(context).items() if config else ():
        if name not in ("config", "check"):
            raise OptionError(f"{written} beside {config}; say it in the file")
    settings = read_config(config) if config else single(model, scorer, method, host, port)
    if check:
        typer.echo(
            f"{config or 'the defaults'}: {len(settings.models)} models, {len(settings.presets)} presets"
        )
        return

    def started(url: str) -> None:
        names = ", ".join([*settings.presets, *settings.models])
        typer.echo(f"{names} at {url}/v1 (page: {url}/); Ctrl-C ends it", err=True)

    serve_forever(settings, config, started)
