import math

import numpy as np
import pytest

from maskdiff_jax.evaluate.metrics import (
    METRICS,
    NEEDS,
    Images,
    Options,
    Work,
    closest_pairs,
    compute,
    fid,
    inception_score,
    kid,
    measure,
    moments,
    needed,
    prdc,
)
from maskdiff_jax.evaluate.metrics.compute import _count
from tests.evaluate.metrics.clouds import cloud

OPTIONS = Options(kid_subsets=5, kid_size=50, cell_least=5)
REAL, TRAIN, HELDOUT = cloud(0, 110), cloud(1, 100), cloud(2, 90)
FAKE = Images(cloud(3, 120), cloud(4, 120, 5), spatial=moments(cloud(5, 120, 3)))
TRUE = Images(REAL, spatial=moments(cloud(6, 110, 3)))
LABELS = (np.arange(120) % 3, np.arange(120) % 2)


def everything(names=METRICS, fake=FAKE, real=TRUE, train=TRAIN, heldout=HELDOUT, labels=LABELS, options=OPTIONS):
    return compute(names, fake, real, train, heldout, labels, options)


def test_all_at_once_are_those_of_the_functions():
    values = everything()
    assert list(values) == [key for name in METRICS for key in (name, f"{name}_std") if key in values]
    assert set(values) - set(METRICS) == {"kid_std", "is_std"}
    assert all(math.isfinite(value) for value in values.values())
    four = prdc(FAKE.pool, REAL)
    assert [values[name] for name in ("precision", "recall", "density", "coverage")] == list(four)
    assert (values["kid"], values["kid_std"]) == kid(FAKE.pool, REAL, 5, 50)
    assert (values["is"], values["is_std"]) == inception_score(FAKE.logits)
    assert values["fid"] == fid(moments(FAKE.pool), moments(REAL))
    assert values["class_accuracy"] == 1 / 3  # of six labels in a row, the first two agree
    distances = np.linalg.norm(FAKE.pool[:, None].astype(np.float64) - TRAIN, axis=2)
    assert values["nearest"] == pytest.approx(distances.min(axis=1).mean(), rel=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_each_alone_with_no_more_than_it_needs(name):
    needs = needed([name])
    fake = Images(**{field: getattr(FAKE, field) for field in needs.fake - {"moments"}})
    real = Images(**{field: getattr(TRUE, field) for field in needs.real - {"moments"}})
    if "moments" in needs.fake:
        fake, real = fake._replace(moments=moments(FAKE.pool)), real._replace(moments=moments(REAL))
    given = {"train": TRAIN, "heldout": HELDOUT, "labels": LABELS}
    alone = compute([name], fake, real, **{key: given[key] for key in needs.also}, options=OPTIONS)
    assert alone == {key: value for key, value in everything().items() if key in (name, f"{name}_std")}


def test_training_images_as_the_reference():
    """The very same array, whose neighbours are searched once, or a copy of it: the same values."""
    names = ("precision", "recall", "density", "coverage", "authpct", "copied", "ct")
    assert everything(names, real=Images(TRAIN)) == everything(names, real=Images(TRAIN.copy()))


def test_the_closest_pairs_of_the_same_search():
    work = Work(FAKE, TRUE, TRAIN, HELDOUT, LABELS, OPTIONS)
    values = measure(["nearest", "copied"], work)
    pairs = closest_pairs(work.nearest("fake", "train", 1), len(FAKE.pool))
    assert pairs.distances.mean() == pytest.approx(values["nearest"], rel=1e-12)


def test_order_and_company_do_not_matter():
    names = ("copied", "coverage", "authpct", "precision", "recall")
    alone = {}
    for name in names[::-1]:
        alone |= everything([name])
    assert everything(names) == alone


def test_what_a_choice_needs():
    needs = needed(["fid", "copied", "is"])
    assert needs == ({"moments", "pool", "logits"}, {"moments"}, {"train"})
    assert {metric.needs for metric in METRICS.values()} == set(NEEDS)


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.needs != "labels"])
def test_the_least_number_of_samples(name):
    """With that many there is a value; with one fewer, of either set, a line that says so."""
    least = METRICS[name].least(OPTIONS)
    options = OPTIONS._replace(cells=1)

    def values(fewer_fake=0, fewer_real=0):
        fake = Images(
            cloud(3, least - fewer_fake), cloud(4, least - fewer_fake), spatial=moments_of(least - fewer_fake)
        )
        real = Images(cloud(0, least - fewer_real), spatial=moments_of(least - fewer_real))
        return everything([name], fake, real, options=options)

    assert math.isfinite(values()[name])
    if least > 1:
        with pytest.raises(ValueError, match=f"{name} needs at least {least} samples, got {least - 1}"):
            values(fewer_fake=1)
        if NEEDS[METRICS[name].needs].real:
            with pytest.raises(ValueError, match=f"{name} needs at least {least} real images, got {least - 1}"):
                values(fewer_real=1)


def moments_of(n):
    return moments(cloud(5, n, 3))


def test_statistics_of_unknown_count():
    real = Images(moments=moments(REAL)._replace(count=0))
    assert _count(real, "moments") == 0
    assert everything(["fid"], real=real)["fid"] == everything(["fid"])["fid"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["fid", "fdi"]}, "unknown metric 'fdi': choose from fid, kid, "),
        ({"names": []}, "unknown metric '': choose from fid, kid, "),
        ({"names": ["fid"], "real": Images()}, "fid needs moments of the real images"),
        ({"names": ["kid"], "real": Images(moments=moments(REAL))}, "kid needs pool of the real images"),
        ({"names": ["is"], "fake": Images(FAKE.pool)}, "is needs logits of the samples"),
        ({"names": ["ct"], "train": None, "heldout": None}, "ct needs heldout and train"),
        ({"names": ["class_accuracy"], "labels": None}, "class_accuracy needs labels"),
        ({"names": ["copied"], "train": TRAIN[:1]}, "train features: at least 2 needed, got 1"),
        ({"names": ["authpct"], "train": TRAIN[:1]}, "train features: at least 2 needed, got 1"),
        ({"names": ["precision"], "real": Images(REAL * np.nan)}, "real features hold NaN or infinity, first in row 0"),
        ({"names": ["fid"], "fake": Images(FAKE.pool * np.nan)}, "fake features hold NaN"),
        ({"names": ["nearest"], "train": TRAIN[:, :3]}, "features of different widths: 8 and 3"),
        ({"names": ["ct"], "heldout": HELDOUT[:, :3]}, "features of different widths: 3 and 8"),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(ValueError, match=message) as raised:
        everything(**changes)
    assert "\n" not in str(raised.value)
