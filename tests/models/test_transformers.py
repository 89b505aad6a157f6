"""What the transformers over patches share beyond the contract: what they refuse, in one line that names it."""

import pytest

from maskdiff_jax.models import MODELS

TRANSFORMERS = ("dit", "mdt", "pixart", "mmdit")


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "H"}, r"preset='H': choose from S, B, L, XL"),
        ({"dtype": "float16"}, r"dtype='float16': choose from float32, bfloat16"),
        ({"patch": 3}, r"patch=3 does not divide an image of 8×8"),
        ({"width": 30, "heads": 4}, r"width=30 must be divisible by heads=4 and by 4"),
        ({"width": 30, "heads": 3}, r"width=30 must be divisible by heads=3 and by 4"),
        ({"depth": 0}, r"{name}: must be positive: depth=0"),
        ({"classes": -1}, r"classes=-1: a number of classes, or 0"),
        ({"conditioning": {"pose": {}}}, r"conditioning='pose': choose from label"),
        ({"conditioning": {"label": {}}}, r"label needs classes ≥ 1, got 0"),
        ({"conditioning": {"label_token": {}}}, r"label needs classes ≥ 1, got 0"),
    ],
)
def test_errors_name_what_is_wrong(name, options, message):
    with pytest.raises(ValueError, match=message.replace("{name}", name)) as error:
        MODELS[name]((8, 8, 1), **options)
    assert "\n" not in str(error.value)
