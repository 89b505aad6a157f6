"""Model cards: what they say of a config and a report, and front matter that a YAML parser reads."""

import pytest
import yaml

from configs import digits_sparse
from maskdiff_jax.evaluate.report import MAYBE, SCHEMA, make_report
from maskdiff_jax.types import CondShape
from maskdiff_jax.weights.card import MEASURED, Weights, card, with_diffusers, with_this_library
from tests.evaluate.test_report import entries

WEIGHTS = Weights((8, 8, 1), CondShape(classes=10), step=2000, decay=0.999, parameters=716_260)
CONFIG = digits_sparse.get_config().to_dict() | {"name": "digits_sparse"}


def make(config=CONFIG, weights=WEIGHTS, report=None, use=with_this_library):
    text = card(config, weights, report, use, "maskdiff_jax")
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


@pytest.fixture(scope="module")
def report():
    features = {"name": "inception", "dims": 2048}
    return make_report(**entries(metrics={"fid": 12.345678, "kid": None}, features=features, bits_per_dim=3.25))


def test_every_metric_of_a_report_has_words():
    assert MEASURED.keys() == {key for key, kind in SCHEMA.items() if kind == MAYBE}


def test_what_was_measured_is_shown_and_what_was_not_is_left_out(report):
    front, body = make(report=report)
    (model,) = front["model-index"]
    assert (model["name"], front["library_name"]) == ("digits_sparse", "maskdiff_jax")
    (result,) = model["results"]
    found = {metric["type"]: metric["value"] for metric in result["metrics"]}
    measured = {key: report[key] for key in MEASURED if report[key] is not None}
    assert found == measured | {"fid": 12.345678, "heldout_loss": report["heldout"]["loss"]}
    assert "| fid on inception features | 12.35 |" in body and "kid" not in body and "Wasserstein" not in body
    assert "| images seen | 256,000 |" in body and "716,260 parameters" in body
    assert "| supervision | sparse (ratio=0.5) |" in body and "| weighting | constant (space='velocity') |" in body


def test_a_report_of_another_step_says_nothing(report):
    """Those metrics are of other weights."""
    front, body = make(report=report, weights=WEIGHTS._replace(step=1000))
    assert (front, body) == make(weights=WEIGHTS._replace(step=1000))
    assert "model-index" not in front and "## Metrics" not in body and "images seen" not in body
    assert "| steps | 1,000 |" in body


def test_names_are_quoted(report):
    name = 'a: "b" # {c} | ---'
    front, body = make(CONFIG | {"name": name, "augment": {"name": "x|y"}}, report=report)
    assert front["model-index"][0]["name"] == name
    assert r"| augment | x\|y |" in body


def test_a_network_without_classes():
    front, body = make(weights=WEIGHTS._replace(cond=CondShape()))
    assert "unconditional-image-generation" in front["tags"] and "without classes" in body
    assert "label" not in body


@pytest.mark.parametrize(("classes", "guides"), [(10, False), (1000, True)])
def test_diffusers_guides_where_it_knows_the_null_label(classes, guides):
    text = with_diffusers(WEIGHTS._replace(cond=CondShape(classes=classes)))
    assert ("Leave `guidance_scale` at 1" in text) is not guides
    assert ("The label without a class is 10 here" in text) is not guides
    assert "vae=" not in text and "vae=AutoencoderKL" in with_diffusers(WEIGHTS, has_vae=False)
    for channels, named in ((3, False), (4, True)):  # pictures, and latents
        text = with_diffusers(WEIGHTS._replace(image_shape=(8, 8, channels)), has_vae=False)
        assert ('load(".", vae="path/to/a/vae")' in text) is named
