"""Which values of a logged metric are better: by it checkpoints are ranked, and runs compared."""

from maskdiff_jax.evaluate.metrics.table import METRICS

# Of the image metrics of a report; "" where neither end is good.
IMAGE_METRICS = {
    "class_accuracy": "higher",
    "judge_accuracy": "higher",
    "pixel_frechet": "lower",
    "pixel_frechet_reference": "",
    "nearest_train_distance": "",
    "nearest_train_distance_heldout": "",
    "copied_share": "lower",
    "sliced_wasserstein": "lower",
    "sliced_wasserstein_reference": "",
    "violation_rate": "lower",
    "unreadable_rate": "lower",
}
BETTER: dict[str, str] = IMAGE_METRICS | {name: metric.better for name, metric in METRICS.items()}
HIGHER = ("accuracy", *(name for name, better in BETTER.items() if better == "higher"))
