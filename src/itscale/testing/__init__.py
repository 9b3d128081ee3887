"""Laws for people who write their own model, scorer or method, and the exact enumerator.

A random method is right when its law is: `enumerate_law` adds it up exactly (`enumerator.py`). A
backend is right when it keeps the laws of its seam: `MODEL_LAWS` is the table of them (`laws.py`).
"""

from itscale.testing.enumerator import (
    EnumerationError,
    Enumerator,
    all_paths,
    enumerate_expectation,
    enumerate_law,
)
from itscale.testing.laws import (
    MODEL_LAWS,
    LawBroken,
    check_forced,
    check_given,
    check_length_is_not_eos,
    check_one_seed,
    check_samples_alike,
    check_samples_differ,
    check_stepwise_equals_single_pass,
    check_token_statistics,
    check_usage,
)

__all__ = [
    "MODEL_LAWS",
    "EnumerationError",
    "Enumerator",
    "LawBroken",
    "all_paths",
    "check_forced",
    "check_given",
    "check_length_is_not_eos",
    "check_one_seed",
    "check_samples_alike",
    "check_samples_differ",
    "check_stepwise_equals_single_pass",
    "check_token_statistics",
    "check_usage",
    "enumerate_expectation",
    "enumerate_law",
]
