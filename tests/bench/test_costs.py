from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itscale.bench.costs import ACCELERATORS, Accelerator, ModelShape, modelled_cost, read_prices
from itscale.budget import Price
from itscale.embedded import REASONER
from itscale.errors import OptionError

SEVEN = ModelShape(parameters=7_000_000_000, layers=28, heads=28, kv_heads=4, head_size=128)
EVEN = Accelerator(flops=1e12, bandwidth=1e12, power_w=100, usd_per_hour=3.6)


@given(st.integers(0, 300), st.integers(1, 200), st.integers(1, 16))
def test_the_sum_over_tokens_is_the_published_closed_form(prompt: int, generated: int, samples: int):
    """Kinetics' decoding terms summed a token at a time: their integral, and half a token more."""
    size = SEVEN.head_size * SEVEN.layers
    found = modelled_cost(SEVEN, EVEN, prompt=prompt, generated=generated, samples=samples)
    prefill = 2.0 * SEVEN.parameters * prompt + 2.0 * prompt**2 * SEVEN.heads * size
    exact = (
        2.0 * SEVEN.parameters * generated
        + 2.0 * (2 * prompt + generated + 1) * generated * SEVEN.heads * size
    )
    assert found.flops == pytest.approx(prefill + samples * exact)
    kv = 2.0 * (2 * prompt * generated + generated * (generated + 1) * samples) * SEVEN.kv_heads * size
    assert found.kv_traffic_bytes == pytest.approx(kv)


def test_attention_overtakes_parameters_as_answers_grow():
    """The Kinetics point: the share of attention grows with G, and samples share only the prompt."""
    shares = [
        modelled_cost(SEVEN, EVEN, prompt=500, generated=g, samples=8).attention for g in (100, 1000, 32000)
    ]
    assert shares == sorted(shares)
    assert shares[0] < 0.05
    assert shares[-1] > 0.3
    one, many = (modelled_cost(SEVEN, EVEN, prompt=5000, generated=100, samples=n) for n in (1, 8))
    assert many.kv_traffic_bytes < 8 * one.kv_traffic_bytes / 3


def test_one_sample_is_bound_by_memory_and_many_by_arithmetic():
    """Batch 1 decodes at weights over bandwidth; doubling bandwidth halves it, and does nothing at a batch
    far beyond the crossover of peak over bandwidth."""
    h100 = ACCELERATORS["h100"]
    faster = Accelerator(flops=h100.flops, bandwidth=2 * h100.bandwidth)
    weights = SEVEN.parameters * SEVEN.weight_bytes

    def seconds(machine: Accelerator, samples: int) -> float:
        return modelled_cost(SEVEN, machine, prompt=0, generated=100, samples=samples).seconds

    assert seconds(h100, 1) == pytest.approx(101 * weights / h100.bandwidth, rel=0.01)
    assert seconds(faster, 1) == pytest.approx(seconds(h100, 1) / 2, rel=0.01)
    assert seconds(faster, 4096) > 0.95 * seconds(h100, 4096)
    assert 250 < h100.intensity < 350


def test_energy_and_dollars_are_seconds_at_their_rates():
    """100 watts and 0.001 dollars a second; equivalent operations add traffic at the machine's balance."""
    found = modelled_cost(SEVEN, EVEN, prompt=10, generated=10, samples=2)
    assert found.joules == pytest.approx(100 * found.seconds)
    assert found.dollars == pytest.approx(0.001 * found.seconds)
    assert found.equivalent_flops(EVEN) == found.flops + found.kv_traffic_bytes
    with pytest.raises(ValueError, match="below 0"):
        modelled_cost(SEVEN, EVEN, prompt=-1, generated=1, samples=1)


def test_the_shape_of_the_embedded_model_is_that_of_its_weights():
    """Parameters counted from config.json are those stored, to the last one."""
    from safetensors import safe_open

    shape = ModelShape.read(REASONER / "config.json")
    with safe_open(REASONER / "model.safetensors", framework="np") as stored:
        sizes = [stored.get_slice(name).get_shape() for name in stored.keys()]  # noqa: SIM118  not a mapping
    total = sum(a * (b[0] if b else 1) for a, *b in sizes)
    assert shape.parameters == total
    assert (shape.layers, shape.heads, shape.kv_heads, shape.weight_bytes) == (7, 6, 2, 4.0)


@pytest.mark.parametrize("text", ["", "{}", '{"hidden_size": 8}', "[]"])
def test_a_config_that_tells_no_shape_is_refused(tmp_path: Path, text: str):
    """With the file's name and what is missing."""
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(OptionError, match="does not tell the shape"):
        ModelShape.read(tmp_path / "config.json")


def test_prices_come_from_a_file(tmp_path: Path):
    """Models by their spec, machines of one's own beside ours."""
    file = tmp_path / "prices.toml"
    file.write_text(
        '[models."openai:m@u"]\nprompt_usd = 1\n[accelerators.mine]\nflops = 1e12\nbandwidth = 1e11\n'
    )
    prices = read_prices(file)
    assert prices.models == {"openai:m@u": Price(prompt_usd=1)}
    assert prices.accelerator("mine").intensity == 10
    assert prices.accelerator("h100") == ACCELERATORS["h100"]
    with pytest.raises(OptionError, match="did you mean 'h100'"):
        prices.accelerator("h10")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[models.m]\nprompt = 1", "did you mean 'prompt_usd'"),
        ("[models.m]\nprompt_usd = -1", "give a number, 0 or more"),
        ("[accelerators.a]\nflops = 1", "give flops and bandwidth"),
        ("[model.m]\n", "did you mean 'models'"),
        ("[models\n", "line 1"),
        ("shapes = 'x'", r"make it a table, \[shapes\]"),
        ("[accelerators]\nmine = 3", "mine is 3; make it a table with flops"),
        ("[shapes]\nm = 'nowhere.json'", "nowhere.json does not tell the shape"),
    ],
)
def test_a_price_file_that_cannot_be_honoured_is_refused(tmp_path: Path, text: str, says: str):
    """Each mistake has its sentence."""
    (tmp_path / "prices.toml").write_text(text)
    with pytest.raises(OptionError, match=says):
        read_prices(tmp_path / "prices.toml")
