"""Many prompts, one budget: rules that say which prompt gets the next sample."""

from itscale.allocation.base import Allocated, Allocation, Answered, Standing
from itscale.allocation.pets_offline import PetsOffline
from itscale.allocation.pets_online import OnlinePlan, PetsOnline
from itscale.allocation.uniform import Uniform

__all__ = [
    "Allocated",
    "Allocation",
    "Answered",
    "OnlinePlan",
    "PetsOffline",
    "PetsOnline",
    "Standing",
    "Uniform",
]
