"""The claims, by name."""

from benchmarks.claims import (
    compose,
    conditioning_control,
    debias_steps,
    maskdm_compute,
    maskdm_transfer,
    resolution_transfer,
    ssd_consistency,
    ssd_ratio,
    ssd_small_data,
)
from benchmarks.claims.plan import Claim

MODULES = (
    ssd_ratio,
    ssd_small_data,
    ssd_consistency,
    maskdm_compute,
    maskdm_transfer,
    debias_steps,
    conditioning_control,
    resolution_transfer,
    compose,
)
CLAIMS: dict[str, Claim] = {module.CLAIM.name: module.CLAIM for module in MODULES}
