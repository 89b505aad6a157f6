"""What a resumed run may change."""

import json

import pytest

from maskdiff_jax.train.files import plain
from maskdiff_jax.train.workdir import differences

CONFIG = {
    "seed": 0,
    "optimizer": {"name": "adamw", "lr": 1e-3, "betas": (0.9, 0.99)},
    "model": {"options": {}, "remat": False},
    "log": {"every": 10},
    "logarithm": 2,
}


@pytest.mark.parametrize(
    "change, lines",
    [
        ({}, []),
        ({"optimizer": CONFIG["optimizer"] | {"lr": 2e-3}}, ["optimizer.lr: 0.001 in the workdir, 0.002 now"]),
        ({"optimizer": CONFIG["optimizer"] | {"betas": [0.9, 0.99]}}, []),
        ({"optimizer": {"name": "adamw", "lr": 1e-3}}, ["optimizer.betas: [0.9, 0.99] in the workdir, absent now"]),
        ({"model": {"options": {"d": 2}, "remat": 0}},
         ["model.options: {} in the workdir, absent now", "model.remat: false in the workdir, 0 now",
          "model.options.d: absent in the workdir, 2 now"]),
        ({"log": {"every": 20}, "evaluate": {"every": 5}}, []),
        ({"logarithm": 3}, ["logarithm: 2 in the workdir, 3 now"]),
        ({"seed": 0.0}, []),
        ({"seed": None}, ["seed: 0 in the workdir, null now"]),
    ],
)  # fmt: skip
def test_differences(change, lines):
    stored = json.loads(json.dumps(plain(CONFIG)))
    assert differences(stored, CONFIG | change, free=("log", "evaluate")) == lines


def test_free_keys_may_be_single_ones():
    new = CONFIG | {"seed": 1, "optimizer": CONFIG["optimizer"] | {"lr": 1.0, "name": "sgd"}}
    lines = differences(CONFIG, new, free=("seed", "optimizer.lr"))
    assert lines == ['optimizer.name: "adamw" in the workdir, "sgd" now']
    assert differences({"a": 1}, {}, there="in the checkpoint") == ["a: 1 in the checkpoint, absent now"]
