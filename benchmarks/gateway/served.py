"""The gateway of the comparison: one model behind the stub, and a scorer that costs nothing.

    python served.py PORT UPSTREAM_PORT

The very application and server settings of `itscale serve`; only the scorer is made in Python, because the
table is about the gateway and not about a reward model.
"""

from __future__ import annotations

import sys

import uvicorn

from itscale.gateway.app import application
from itscale.gateway.config import Config
from itscale.gateway.server import settings
from itscale.scorers.fake import FakeOutcomeScorer


def main() -> None:
    """Serve until killed."""
    port, upstream = sys.argv[1:3]
    config = Config.model_validate(
        {
            "server": {"port": int(port), "concurrency": 4096},
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
    app = application(config, scorers={"length": FakeOutcomeScorer(len)})
    uvicorn.Server(settings(config, lambda: app)).run()


if __name__ == "__main__":
    main()
