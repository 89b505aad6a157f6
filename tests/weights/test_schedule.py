"""Schedulers of diffusers: there and back, their defaults, and what no process here has."""

import pytest

from maskdiff_jax.weights.schedule import PREDICTIONS, from_scheduler, to_scheduler

PROCESSES = (
    {"name": "ddpm_linear", "steps": 100, "beta_min": 1e-3, "beta_max": 0.2},
    {"name": "ddpm_cosine", "steps": 30},
)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process["name"])
def test_there_and_back_is_the_identity(process, prediction):
    name, *options = process
    for clip in (False, True):
        config = to_scheduler(process[name], {key: process[key] for key in options}, prediction, clip)
        assert from_scheduler(config) == (process, {"name": prediction}, {"name": "ddim"}, clip)


@pytest.mark.parametrize(
    ("kind", "sampler", "clip"),
    [
        ("DDIMScheduler", "ddim", True),
        ("DDPMScheduler", "ancestral", True),
        ("DPMSolverMultistepScheduler", "dpm_solver", False),
    ],
)
def test_absent_entries_are_those_of_the_paper(kind, sampler, clip):
    process = {"name": "ddpm_linear", "steps": 1000, "beta_min": 1e-4, "beta_max": 0.02}
    assert from_scheduler({"_class_name": kind}) == (process, {"name": "eps"}, {"name": sampler}, clip)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "is a FlowMatchEuler.*: choose from DDIMScheduler, "),
        ({"beta_schedule": "scaled_linear"}, "beta_schedule='scaled_linear': choose from linear, squaredcos_cap_v2"),
        ({"beta_schedule": []}, r"beta_schedule=\[\]: choose from linear"),
        ({"prediction_type": "flow"}, "prediction_type='flow': choose from sample, epsilon, v_prediction"),
        ({"trained_betas": [0.1, 0.2]}, "the scheduler has trained_betas, which no process here has"),
        ({"rescale_betas_zero_snr": True}, "has rescale_betas_zero_snr, which no process here has"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_tables_that_are_not_here(changed, said):
    with pytest.raises(ValueError, match=said):
        from_scheduler({"_class_name": "DDIMScheduler"} | changed)
