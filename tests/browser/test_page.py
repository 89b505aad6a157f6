"""The page in Chromium, on a phone and on a desk, light and dark. ``--basetemp=DIR`` keeps the pictures."""

import io

import numpy as np
import pytest
from PIL import Image

from maskdiff_jax.evaluate.page import write_page
from tests.browser.chromium import chromium
from tests.evaluate.page_run import DEFAULTS, write_rest, write_run

WINDOWS = {"phone": (390, 844, 2.0), "desk": (1280, 900, 1.0)}
LEAKS = """[...document.querySelectorAll('body *')].filter(e => !e.closest('svg, .scroll, pre')
    && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.tagName + '.' + e.className)"""
WIDTHS = "[...document.querySelectorAll('.figures figure')].map(e => Math.round(e.getBoundingClientRect().left))"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_page(write_rest(write_run(tmp_path_factory.mktemp("page") / "run")), DEFAULTS)


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("window", WINDOWS)
def test_page_fits_its_window(browser, page, tmp_path, window, dark):
    width, height, scale = WINDOWS[window]
    browser.open(page, width, height, scale, dark)
    assert browser.value("document.documentElement.scrollWidth") <= browser.value("innerWidth") == width
    assert browser.value(LEAKS) == []
    columns = len(set(browser.value(WIDTHS)))
    assert columns == (1 if window == "phone" else 3)
    assert [address for address in browser.seen if not address.startswith("data:")] == [page.as_uri()]

    data = browser.picture()
    (tmp_path / f"{window}.png").write_bytes(data)
    picture = np.asarray(Image.open(io.BytesIO(data)).convert("L"), np.float64)
    assert picture.shape[1] == width * scale and picture.shape[0] > 3 * height * scale
    assert (np.median(picture) < 64) if dark else (np.median(picture) > 192)
    bands = np.array_split(picture, 12)
    assert all(band.std() > 5 for band in bands)  # blank nowhere


def test_texts_can_be_read(browser, page):
    """The smallest text on a phone, labels of charts included, is no smaller than 9 pixels."""
    browser.open(page, 390, 844)
    heights = browser.value(
        """[...document.querySelectorAll('svg text')].map(e => {
            const svg = e.ownerSVGElement, scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
            return scale * parseFloat(getComputedStyle(e).fontSize);
        })"""
    )
    assert len(heights) > 100 and min(heights) >= 9
    assert browser.value("Math.min(...[...document.querySelectorAll('p, td, th, dt, dd, figcaption, a')]"
                         ".map(e => parseFloat(getComputedStyle(e).fontSize)))") >= 12  # fmt: skip
