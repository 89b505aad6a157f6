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
from benchmarks.peers.step import Training, draw, euler, guided
from benchmarks.peers.uvit import UViT
from benchmarks.peers.weights import state_dict

WAYS = ("eager", "compiled")
NETWORKS: dict[str, Callable[..., torch.nn.Module]] = {"dit": DiT, "uvit": UViT}


def about(device: str) -> dict[str, Any]:
    cuda = device == "cuda"
    name = torch.cuda.get_device_name() if cuda else f"CPU, {torch.backends.cpu.get_cpu_capability()}"
    return {"torch": torch.__version__, "name": name, "threads": torch.get_num_threads()}


def peak_bytes(device: str) -> int | None:
    """The most of a GPU's memory that tensors took at a time."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else None


def begin(device: str, share: float) -> None:
    """Let go of what is compiled, which holds on to its network; keep to a ``share`` of a GPU's memory."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # as XLA has them
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as XLA has it; nothing on a CPU
    torch.compiler.reset()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(share)


def network_of(setup: Setup, params: Any, device: str = "cpu") -> torch.nn.Module:
    """The PyTorch network of a setup with our parameters; those of its own making where they are None."""
    with torch.device(device):
        network = NETWORKS[setup.network](setup.shape, setup.classes, **setup.size)
    if params is not None:
        network.load_state_dict(state_dict(params))
    return network


def training(setup: Setup, device: str, calls: int, ways: tuple[str, ...] = WAYS) -> dict[str, Way]:
    """``calls`` training steps in a call, from our parameters on our batch."""
    image, label = (torch.tensor(array, device=device) for array in ours.raw_of(setup))
    params = _params(setup, device)

    def way(name: str) -> Way:
        network = network_of(setup, params, device)
        trained = Training(network, setup.size["patch"], Recipe(), name == "compiled", mixed=device == "cuda")

        def run() -> None:
            for _ in range(calls):
                trained.step(image, label, draw(setup, image))
            _wait(device)

        return run

    return {name: way(name) for name in ways}


def sampling(setup: Setup, device: str, calls: int, ways: tuple[str, ...] = WAYS) -> dict[str, Way]:
    """``calls`` batches of images by Euler's method in a call, from our parameters and noise."""
    noise, label = (torch.tensor(a, device=device) for a in (ours.noise_of(setup), ours.raw_of(setup).label))
    network, times = network_of(setup, _params(setup, device), device).eval(), ours.times_of(setup.steps)

    def way(name: str) -> Way:
        denoise = guided(torch.compile(network) if name == "compiled" else network, setup.guidance)

        def run() -> None:
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                for _ in range(calls):
                    euler(denoise, setup.size["patch"], times, noise, label)
            _wait(device)

        return run

    return {name: way(name) for name in ways}


def product(shape: tuple[int, int, int], device: str, calls: int) -> dict[str, Way]:
    """``calls`` products of two float32 matrices in a call."""
    rows, inner, columns = shape
    left, right = torch.randn(rows, inner, device=device), torch.randn(inner, columns, device=device)

    def run() -> None:
        for _ in range(calls):
            torch.mm(left, right)
        _wait(device)

    return {"eager": run}


def _params(setup: Setup, device: str) -> Any:
    """Ours; on a GPU none, as carrying them there takes long and changes no speed."""
    return None if device == "cuda" else jax.jit(ours.model_of(setup, "float32").init)(jax.random.key(setups.SEED))


def _wait(device: str) -> None:
    """Until a GPU has done what it was given; a CPU has."""
    if device == "cuda":
        torch.cuda.synchronize()


KINDS = {"training": training, "sampling": sampling, "product": product}
KINDS |= {f"{kind} {way}": partial(KINDS[kind], ways=(way,)) for kind in ("training", "sampling") for way in WAYS}
OPTIONAL = frozenset({"compiled"})
