"""What a trained network gets wrong: bias and context by noise level, and the colours of samples by number of steps.

D/diagnostics.json           figures with standard errors
D/diagnostics/context.png    what one pixel of x̂ depends on: a row for each pixel, a column for each t
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from maskdiff_jax import rng
from maskdiff_jax.build import Experiment, make_sample, mesh_for
from maskdiff_jax.diffusion.denoiser import make_denoiser
from maskdiff_jax.evaluate.bias import make_bias, make_colour_shift, middle_times
from maskdiff_jax.evaluate.context import Context, make_context
from maskdiff_jax.evaluate.grid import image_grid, save_picture
from maskdiff_jax.evaluate.sampling import Sample
from maskdiff_jax.inference import condition, labels_for, load, read, with_settings
from maskdiff_jax.reporting import labelled, write_page
from maskdiff_jax.stages import build_stages
from maskdiff_jax.train.files import write_json
from maskdiff_jax.train.parallel import collect, place
from maskdiff_jax.train.progress import say
from maskdiff_jax.train.provenance import provenance
from maskdiff_jax.types import Batch, Denoiser, Params


def diagnose(
    config: ConfigDict, workdir: Path, *, num: int | None = None, seed: int = 0, checkpoint: str = "newest"
) -> dict[str, Any]:
    """Measure by ``evaluate.diagnose`` a checkpoint of ``workdir`` (see `inference.load`); what was found.

    On the first ``num`` held-out images (all, where there are fewer) the errors and channel offsets of x̂ and eps̑ at
    the middle of every noise level, and what the denoised pixels depend on; of as many samples, how their mean colours
    depend on the number of steps, from the same noise and by ``config.sample`` otherwise. Nothing is clipped and no
    guidance applies, but to samples.
    """
    settings = config.evaluate.diagnose
    if num is not None:
        settings.num = num
    stage, trained = load(build_stages(config), workdir, checkpoint)
    e, params = stage.experiment, trained.params
    mesh = mesh_for(e.config)
    size = -(-min(config.evaluate.batch, settings.num) // mesh.size) * mesh.size
    spread: dict[str, Any] = {"batch_size": size, "place": partial(place, mesh), "collect": collect}
    data = encoded(e, read(e, e.dataset.heldout, min(settings.num, len(e.dataset.heldout))), seed)
    times = middle_times(e.process, config.evaluate.levels, e.heldout_times)

    def denoiser_of(params: Params) -> Denoiser:
        return make_denoiser(e.model, params, e.process, e.prediction, e.inputs, None, e.phase)

    say(f"bias at {len(times)} noise levels, {len(data.image):,} held-out images of step {trained.step}")
    bias = make_bias(denoiser_of, e.process, times, seed=seed, **spread)(params, data)
    h, w, _ = data.image.shape[1:]
    pixels = [(h // 2, w // 2), (h // 4, w // 4)]
    few = jax.tree.map(lambda leaf: leaf[: settings.context], data)
    context = make_context(denoiser_of, e.process, times, pixels, seed=seed, **spread)(params, few)

    def sample_of(steps: int) -> Sample:
        return make_sample(e, with_settings(e.config.sample, steps, None, None))

    say(f"colours of {settings.num:,} samples with {', '.join(map(str, settings.steps))} steps")
    labels = labels_for(e, None, settings.num)
    cond = condition(e, labels, settings.num)
    # of latents, too, the colours are of what the sampler returns: undecoded
    shown = e.dataset.latents is None
    real = labelled(e, e.dataset.heldout)[0] if shown else np.asarray(e.codec.decode(None, data.image))
    shifts = make_colour_shift(sample_of, settings.steps, **spread)(params, real, settings.num, cond, seed)
    found = {
        "step": trained.step,
        "seed": seed,
        "images": len(data.image),
        "samples": settings.num,
        "sampler": e.config.sample.sampler.name,
        "bias": [level._asdict() for level in bias],
        "colour_shift": [shift._asdict() for shift in shifts],
        "context": [{key: v for key, v in row._asdict().items() if key != "map"} for row in context],
        "provenance": provenance(config.to_dict()),
    }
    write_json(workdir / "diagnostics.json", found)
    save_picture(workdir / "diagnostics" / "context.png", context_picture(context, len(times)))
    write_page(workdir)
    say(format_diagnosis(found))
    say(f"{workdir / 'diagnostics.json'}, {workdir / 'report.html'}")
    return found


def encoded(experiment: Experiment, data: Batch, seed: int) -> Batch:
    """Images in the space of the network."""
    keys = rng.per_image(rng.key_for(jax.random.key(seed), "encode"), len(data.image))
    return data._replace(image=np.asarray(experiment.codec.encode(None, data.image, keys)))


def context_picture(rows: list[Context], levels: int) -> np.ndarray:
    """The maps, a row for each pixel and a column for each t, uint8 [H, W, 3]: black nothing, white the most."""
    maps = np.stack([np.sqrt(row.map / max(row.map.max(), 1e-30)) for row in rows])  # the root shows what is faint
    by_pixel = maps.reshape(levels, -1, *maps.shape[1:]).swapaxes(0, 1).reshape(maps.shape)
    names = [f"t {row.t:.2f}" for row in rows[:: len(rows) // levels]] * (len(rows) // levels)
    return image_grid(2 * by_pixel[..., None].astype(np.float32) - 1, columns=levels, labels=names)


def format_diagnosis(found: dict[str, Any]) -> str:
    """The figures as plain text: a table by noise level, and one by number of steps."""
    lines = [f"{'t':>6}{'mse x':>12}{'mse eps':>12}{'offset':>10}{'':>10}{'context':>10}"]
    mean = {row["t"]: row["distance"] for row in found["context"][:: len(found["context"]) // len(found["bias"])]}
    for row in found["bias"]:
        worst = max(range(len(row["offset"])), key=lambda i: abs(row["offset"][i]))
        error = f"± {row['offset_error'][worst]:.3f}"
        values = f"{row['mse_x']:>12.5f}{row['mse_eps']:>12.5f}{row['offset'][worst]:>+10.3f} {error:<9}"
        lines.append(f"{row['t']:>6.3f}{values}{mean[row['t']]:>7.2f} px")
    lines.append(f"\n{'steps':>6}{'shift':>12}{'chroma':>12}{'offset':>10}")
    for row in found["colour_shift"]:
        offset = max(row["offset"], key=abs)
        lines.append(f"{row['steps']:>6}{max(row['shift']):>12.5f}{row['chroma']:>12.5f}{offset:>+10.3f}")
    return "\n".join(lines)
