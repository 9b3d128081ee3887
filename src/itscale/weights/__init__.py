"""Log weights, effective sample size, resampling schemes, and the population they act on."""

from itscale.weights.branching import branch
from itscale.weights.population import Population
from itscale.weights.resampling import SCHEMES, Scheme, multinomial, optimal, residual, stratified, systematic

__all__ = [
    "SCHEMES",
    "Population",
    "Scheme",
    "branch",
    "multinomial",
    "optimal",
    "residual",
    "stratified",
    "systematic",
]
