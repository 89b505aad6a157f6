"""A model card: the README.md of the published weights of a run, with the front matter that the Hugging Face Hub reads.

It says what stands in the run's config and in its report, and nothing else.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from maskdiff_jax.types import CondShape
from maskdiff_jax.weights.pipeline import NULL_CLASS, PICTURES

# What of a report is shown, and how it is called; what was not measured is left out.
MEASURED = {
    "class_accuracy": "class accuracy of the samples, as a judge sees them",
    "judge_accuracy": "class accuracy of the judge on held-out real images",
    "pixel_frechet": "Fréchet distance in pixels, samples to all real images",
    "pixel_frechet_reference": "the same between random halves of the real images",
    "nearest_train_distance": "mean distance of a sample to the nearest training image",
    "nearest_train_distance_heldout": "the same for held-out real images",
    "copied_share": "share of samples much nearer to one training image than to any other",
    "sliced_wasserstein": "sliced Wasserstein distance, samples to all real points",
    "sliced_wasserstein_reference": "the same between random halves of the real points",
    "violation_rate": "share of readable samples that break the rule of the data",
    "unreadable_rate": "share of samples of which nobody can tell",
    "bits_per_dim": "bits per dimension, a bound on held-out images",
}
PARTS = ("data", "augment", "codec", "process", "prediction", "inputs", "times", "weighting", "supervision")
PARTS += ("visibility", "model", "optimizer", "schedule")  # of a config, in the order in which they are listed


class Weights(NamedTuple):
    """What a card is about: the averaged parameters of a run after ``step`` steps.

    ``image_shape`` (h, w, c) and ``cond`` are those of the network; ``decay`` is that of the average.
    """

    image_shape: tuple[int, int, int]
    cond: CondShape
    step: int
    decay: float
    parameters: int


Use = Callable[[Weights], str]  # how to load them


def card(config: Mapping[str, Any], weights: Weights, report: Mapping[str, Any] | None, use: Use, library: str) -> str:
    """The text of README.md.

    Args:
      config: of the run, or of its stage that the weights are of, as plain dicts.
      weights: what the card is about.
      report: the run's report.json, where there is one; it is shown where it is of the same step.
      use: how the files beside the card are loaded, `with_this_library` or `with_diffusers`.
      library: the name of the library that loads them, for the front matter.
    """
    found = {} if report is None or report["steps"] != weights.step else report
    h, w, c = weights.image_shape
    title = config["name"] or config["model"]["name"]
    conditional = f"conditioned on {weights.cond.classes} classes" if weights.cond.classes else "without classes"
    lines = [
        *_front(config, weights, found, title, library),
        f"# {title}",
        "",
        f"A diffusion network for arrays of {h}×{w}×{c}, {conditional}: `{config['model']['name']}` with "
        f"{weights.parameters:,} parameters, trained on `{config['data']['name']}`.",
        "",
        "## Use",
        "",
        use(weights),
        "",
        "## Training",
        "",
        *_table(("what", "value"), _training(config, weights, found)),
    ]
    if rows := _metrics(found):
        samples = found["samples"]
        drawn = f"{samples['count']:,} samples, {samples['sampler']} with {samples['steps']} steps"
        about = f"{drawn}, guidance {samples['guidance']:g}; class accuracy at guidance {samples['class_guidance']:g}."
        lines += ["", "## Metrics", "", *_table(("metric", "value"), rows), "", about]
    return "\n".join(lines) + "\n"


def with_this_library(weights: Weights) -> str:
    """How ``model.safetensors`` becomes samples."""
    labels = f", labels={_labels(weights.cond, 4)}" if weights.cond.classes else ""
    return f"""\
```python
import maskdiff_jax

model = maskdiff_jax.load(".")  # this folder
images = model.sample(4{labels})  # uint8 [4, h, w, c]
```"""


def with_diffusers(weights: Weights, has_vae: bool = True) -> str:
    """How the folder of a pipeline is loaded by diffusers, and by this library.

    Without a decoder in the folder (``has_vae``) it is given one; this library needs none for pictures.
    """
    classes = weights.cond.classes
    vae = "" if has_vae else ', vae=AutoencoderKL.from_pretrained("path/to/a/vae")'
    ours = "" if has_vae or weights.image_shape[-1] in PICTURES else ', vae="path/to/a/vae"'
    names = "DiTPipeline" if has_vae else "AutoencoderKL, DiTPipeline"
    guidance = "Above 1, `guidance_scale` guides away from the answer without a class."
    if classes != NULL_CLASS:
        guidance = f"""\
Leave `guidance_scale` at 1: above it DiTPipeline asks for the label {NULL_CLASS}, which there is only with {NULL_CLASS}
classes. The label without a class is {classes} here."""
    return f"""\
```python
from diffusers import {names}

pipeline = DiTPipeline.from_pretrained("path/to/this/folder"{vae})
images = pipeline(class_labels=[0], num_inference_steps=50, guidance_scale=1.0).images
```

{guidance} The same network in JAX:

```python
import maskdiff_jax

model = maskdiff_jax.load("."{ours})  # this folder
images = model.sample(labels=[0])  # uint8 [1, h, w, c]
```"""


def _labels(cond: CondShape, count: int) -> list[int]:
    return [number % cond.classes for number in range(count)]


def _front(
    config: Mapping[str, Any], weights: Weights, found: Mapping[str, Any], title: str, library: str
) -> list[str]:
    """The front matter. JSON is YAML, so no value needs escaping of its own."""
    data, rows = config["data"]["name"], _metrics(found)
    kind = "class-conditional-image-generation" if weights.cond.classes else "unconditional-image-generation"
    entries: dict[str, Any] = {
        "library_name": library,
        "tags": ["diffusion", "jax", kind, config["model"]["name"]],
    }
    if rows:
        metrics = [{"type": key, "name": words, "value": value} for key, (words, value) in _values(found).items()]
        result = {"task": {"type": kind}, "dataset": {"name": data, "type": data}, "metrics": metrics}
        entries["model-index"] = [{"name": title, "results": [result]}]
    return ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in entries.items()), "---", ""]


def _training(config: Mapping[str, Any], weights: Weights, found: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [(part, _called(config[part])) for part in PARTS]
    rows += [("batch", f"{config['batch']:,}"), ("steps", f"{weights.step:,}")]
    rows += [("average of the parameters", f"decay {weights.decay:g}"), ("seed", str(config["seed"]))]
    if found:
        origin = found["provenance"]
        rows += [
            ("images seen", f"{found['images']:,}"),
            ("floating-point operations", f"{found['flops']:.3g}"),
            ("hours", f"{found['seconds'] / 3600:.3g}"),
            ("devices", f"{origin['devices']} × {origin['device']}"),
        ]
        rows += [("revision", origin["revision"])] if origin["revision"] else []
    return rows


def _called(section: Mapping[str, Any]) -> str:
    """A part of a config: its name, and its options in brackets."""
    options = ", ".join(f"{key}={value!r}" for key, value in sorted(section.items()) if key != "name")
    return f"{section['name']} ({options})" if options else str(section["name"])


def _values(found: Mapping[str, Any]) -> dict[str, tuple[str, float]]:
    """What was measured: key -> (words, value)."""
    if not found:
        return {}
    features = (found["features"] or {}).get("name")
    values = {key: (words, found[key]) for key, words in MEASURED.items()}
    values |= {name: (f"{name} on {features} features", value) for name, value in found["metrics"].items()}
    values["heldout_loss"] = ("dense held-out loss, mean over the noise levels", found["heldout"]["loss"])
    return {key: (words, value) for key, (words, value) in values.items() if value is not None}


def _metrics(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(words, f"{value:.4g}") for words, value in _values(found).values()]


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> list[str]:
    cells = [head, ("---", "---"), *rows]
    return [f"| {a} | {b.replace('|', chr(92) + '|')} |" for a, b in cells]
