"""The `itscale` command on slow coins, to be killed: `python slow_coins.py LATENCY_SECONDS ARGUMENTS`."""

from __future__ import annotations

import sys

from itscale import cli
from tests.bench.worlds import play_coins

if __name__ == "__main__":
    play_coins(setattr, latency_s=float(sys.argv.pop(1)))
    cli.main()
