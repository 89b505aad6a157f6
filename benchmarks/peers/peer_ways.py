"""The peer's side of each job, eager and compiled."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import torch

from benchmarks.peers import ours, setups
from benchmarks.peers.dit import DiT
from benchmarks.peers.jobs import Way
from benchmarks.peers.setups import Recipe, Setup
from benchmarks.peers.step import Training, draw, euler
from benchmarks.peers.uvit import UViT
from benchmarks.peers.weights import state_dict

NETWORKS: dict[str, Callable[..., torch.nn.Module]] = {"dit": DiT, "uvit": UViT}


def about(device: str) -> dict[str, Any]:
    cuda = device == "cuda"
    name = torch.cuda.get_device_name() if cuda else f"CPU, {torch.backends.cpu.get_cpu_capability()}"
    return {"torch": torch.__version__, "name": name, "threads": torch.get_num_threads()}


def ways(job: str, device: str, steps: int) -> tuple[dict[str, Way], frozenset[str]]:
    """The ways of a job by name, and those that may fail: what torch.compile makes."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # as XLA has them
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as XLA has it; nothing on a CPU
    torch.compiler.reset()  # what is compiled holds on to its network
    made = JOBS[job](device, steps)
    return made, frozenset(made) - {"eager"}


def network_of(setup: Setup, params: Any, device: str = "cpu") -> torch.nn.Module:
    """The PyTorch network of a setup with our parameters."""
    network = NETWORKS[setup.network](setup.shape, setup.classes, **setup.size)
    network.load_state_dict(state_dict(params))
    return network.to(device)


def training(setup: Setup, device: str, steps: int) -> dict[str, Way]:
    """``steps`` training steps in a call, from our parameters on our batch."""
    image, label = (torch.tensor(array, device=device) for array in ours.raw_of(setup))
    params = _params(setup)

    def way(compiled: bool) -> Way:
        network = network_of(setup, params, device)
        trained = Training(network, setup.size["patch"], Recipe(), compiled, mixed=device == "cuda")

        def run() -> None:
            for _ in range(steps):
                trained.step(image, label, draw(setup, image))
            _wait(device)

        return run

    return {"eager": way(False), "compiled": way(True)}


def sampling(setup: Setup, device: str, steps: int) -> dict[str, Way]:
    """Images by Euler's method in a call, from our parameters and noise; ``steps``, of training, is not used."""
    noise, label = (torch.tensor(a, device=device) for a in (ours.noise_of(setup), ours.raw_of(setup).label))
    network, times = network_of(setup, _params(setup), device).eval(), ours.times_of(setups.SAMPLING_STEPS)

    def way(denoise: Callable[..., torch.Tensor]) -> Way:
        def run() -> None:
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                euler(denoise, setup.size["patch"], times, noise, label)
            _wait(device)

        return run

    return {"eager": way(network), "compiled": way(torch.compile(network))}


def product(shape: tuple[int, int, int], device: str, steps: int) -> dict[str, Way]:
    """The product of two float32 matrices, repeated in a call; ``steps``, of training, is not used."""
    rows, inner, columns = shape
    left, right = torch.randn(rows, inner, device=device), torch.randn(inner, columns, device=device)

    def run() -> None:
        for _ in range(setups.repeats(shape)):
            torch.mm(left, right)
        _wait(device)

    return {"eager": run}


def _params(setup: Setup) -> Any:
    return jax.jit(ours.model_of(setup, "float32").init)(jax.random.key(setups.SEED))


def _wait(device: str) -> None:
    """Until a GPU has done what it was given; a CPU has."""
    if device == "cuda":
        torch.cuda.synchronize()


KINDS = ((setups.TRAINING, training), (setups.SAMPLING, sampling), (setups.PRODUCTS, product))
JOBS = {name: partial(make, entry) for table, make in KINDS for name, entry in table.items()}
