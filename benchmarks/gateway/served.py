"""The gateway of the comparison: one model behind the stub, and a scorer that costs nothing.

    python served.py PORT UPSTREAM_PORT [WORKERS]

The very application and server settings of `itscale serve`; only the scorer is made in Python, because the
table is about the gateway and not about a reward model.
"""

from __future__ import annotations

import socket
import sys

import uvicorn
from uvicorn.supervisors import Multiprocess

from itscale.gateway.app import Gateway, application
from itscale.gateway.config import Config
from itscale.gateway.server import collect_rarely, settings
from itscale.scorers.fake import FakeOutcomeScorer


def configured() -> Config:
    """As the arguments say."""
    port, upstream, *workers = sys.argv[1:]
    return Config.model_validate(
        {
            "server": {"port": int(port), "concurrency": 4096, "workers": int((workers or ["1"])[0])},
            "models": {
                "stub": {
                    "spec": f"openai:stub@http://127.0.0.1:{upstream}/v1",
                    "scorer": "length",
                    "concurrency": 4096,
                    "calls": 512,
                }
            },
            "scorers": {"length": {"spec": "none"}},
        }
    )


def made() -> Gateway:
    """The application of one worker."""
    collect_rarely()
    config = configured()
    return application(config.share(config.server.workers), scorers={"length": FakeOutcomeScorer(len)})


def main() -> None:
    """Serve until killed."""
    config = configured()
    ours = settings(config, made)
    if config.server.workers == 1:
        uvicorn.Server(ours).run()
        return
    with socket.create_server((config.server.host, config.server.port), backlog=4096) as listening:
        Multiprocess(ours, sockets=[listening]).run()


if __name__ == "__main__":
    main()
