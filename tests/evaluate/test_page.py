import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from maskdiff_jax.evaluate.page import sections, write, write_page
from maskdiff_jax.evaluate.page.charts import MOST, Axes, Line, chart, smooth, thinned
from maskdiff_jax.evaluate.page.html import note
from maskdiff_jax.evaluate.page.numerals import DASH, amount, duration, measured, show, tick, whole
from maskdiff_jax.evaluate.page.pictures import LARGE, picture, spread
from maskdiff_jax.evaluate.page.read import Evaluation, read_run
from maskdiff_jax.evaluate.page.settings import grouped
from maskdiff_jax.train.files import read_json, write_json
from tests.evaluate.page_document import Document
from tests.evaluate.page_run import CONFIG, DEFAULTS, REPORT, rows, write_rest, write_run

# Section -> the files without which it is not there.
NEEDS = {
    "samples": ["samples/step_*.png", "samples/final.png"],
    "training": ["metrics.jsonl"],
    "levels": ["metrics.jsonl", "report.json"],
    "quality": ["metrics.jsonl"],
    "evaluations": ["evaluations"],
    "sweeps": ["evaluations"],
    "neighbours": ["samples/nearest.png", "evaluations/*/nearest.png"],
    "masks": ["samples/masks.png"],
    "bias": ["diagnostics.json"],
    "context": ["diagnostics.json", "diagnostics"],
    "throughput": ["metrics.jsonl"],
    "figures": ["report.json", "metrics.jsonl"],
    "provenance": ["report.json"],
}
ALWAYS = {"configuration"}
THIN = "\N{NARROW NO-BREAK SPACE}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run with everything that a page can show."""
    return write_rest(write_run(tmp_path_factory.mktemp("page") / "run"))


@pytest.fixture(scope="module")
def text(folder):
    return write_page(folder, DEFAULTS).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def document(text):
    return Document(text)


def section(folder, name):
    """What a section says, as a document of its own."""
    return Document(sections.SECTIONS[name][1](read_run(folder, DEFAULTS))).texts.get("", "")


def test_every_section_stands_in_the_order_of_the_table(document):
    found = [tag.attributes["id"] for tag in document.all("section")]
    assert found == list(sections.SECTIONS)
    links = [tag.attributes["href"] for tag in document.all("a")]
    assert links == [f"#{anchor}" for anchor in found]
    assert "Not measured" not in document.texts["footer"]
    assert {*NEEDS} | ALWAYS == {*sections.SECTIONS}


@pytest.mark.parametrize("name", NEEDS)
def test_a_section_goes_with_its_files(folder, tmp_path, name):
    left = shutil.copytree(folder, tmp_path / "run")
    for pattern in NEEDS[name]:
        for path in left.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert sections.SECTIONS[name][1](read_run(left, DEFAULTS)) == ""


def test_document_is_sound(document):
    ids = [tag.attributes["id"] for tag in document.tags if "id" in tag.attributes]
    assert len(ids) == len(set(ids)) > 100
    pointed = [
        tag.attributes.get(key, "") for tag in document.tags for key in ("href", "xlink:href", "aria-labelledby")
    ]
    assert {point.removeprefix("#") for point in pointed if point} - {"data:,"} <= set(ids)
    headings = [int(tag.name[1]) for tag in document.all("h1", "h2", "h3")]
    assert headings[0] == 1 and headings.count(1) == 1
    assert max(np.diff(headings)) == 1
    assert all(tag.attributes.get("alt") for tag in document.all("img"))
    assert all(tag.attributes.get("aria-label") for tag in document.all("svg"))
    assert len(document.all("figure")) == len(document.all("figcaption")) == len(document.all("svg", "img"))
    assert document.all("html")[0].attributes["lang"] == "en"
    assert not document.all("script", "iframe", "object", "form")


def test_nothing_is_loaded(text, document):
    addresses = [
        tag.attributes[key] for tag in document.tags for key in ("src", "href", "xlink:href") if key in tag.attributes
    ]
    assert addresses and all(address.startswith(("#", "data:")) for address in addresses)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text and "http://" not in text and "https://" not in text
    (policy,) = (tag for tag in document.all("meta") if "http-equiv" in tag.attributes)
    assert policy.attributes["content"].startswith("default-src 'none';")


def test_the_values_are_those_of_the_files(folder, document):
    texts = document.texts
    assert "digits_sparse" in texts["header"] and "Step 2,000 of 2,000" in texts["header"]
    figures = texts["figures"].split("\n")
    for title, value in {"Class accuracy": "0.938", "FID": "4.82", "KID": DASH, "Held-out loss": "0.432"}.items():
        assert figures[figures.index(title) + 1] == value
    assert "the judge on real images: 0.990" in figures
    fid = read_json(folder / "evaluations/guidance_1.5/metrics.json")["results"][0]["values"]["fid"]
    table = texts["evaluations"]
    assert (
        table.index("guidance_1\n") < table.index(f"{fid:.2f}") < table.index("guidance_1.5") < table.index("heun_5\n")
    )
    assert "0.0117 ± 0.0012" in table
    assert "All with seed 0, clip true, guidance.name classifier_free, params 9c05e07a." in table
    assert f"Best: {fid:.2f} at guidance 1.5." in texts["sweeps"]
    assert "Best: 3.75 at 50 steps (dpm_solver)." in texts["sweeps"]
    assert f"12.3{THIN}TFLOP" in texts["provenance"] and "0123abc" in texts["provenance"]


def test_what_no_file_says_is_a_dash(folder):
    cells = section(folder, "evaluations").split("\n")
    header = cells[: cells.index("folder") + 1]
    first = dict(zip(header, cells[len(header) :], strict=False))
    assert first["folder"] == "guidance_1" and first["FID ↓"] == "4.00"
    assert (first["Recall ↑"], first["images/s"]) == (DASH, DASH)  # NaN, and null
    assert "Recall" not in section(folder, "sweeps")


def test_configuration_shows_what_differs(folder):
    shown = section(folder, "configuration")
    assert "model.width\n96\n–" in shown and "steps\n2000\n10000" in shown
    assert "batch" not in shown.partition("The whole configuration")[0]
    assert '"batch": 128' in shown
    whole_only = read_run(folder)
    assert "<table" not in sections.SECTIONS["configuration"][1](whole_only)


def test_a_run_in_training_has_a_page(tmp_path):
    run = write_run(tmp_path, finished=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 850, "train/lo')  # the line that is being written
    document = Document(write_page(run, DEFAULTS).read_text(encoding="utf-8"))
    assert "no final report yet" in document.texts["header"] and "Step 800 of 2,000" in document.texts["header"]
    last = rows(800)[-1]
    assert show(last["heldout_ema/loss"]) in document.texts["figures"]
    assert {tag.attributes["id"] for tag in document.all("section")} == {
        "figures", "samples", "training", "levels", "quality", "throughput", "configuration",
    }  # fmt: skip
    absent = "evaluations, sweeps, nearest neighbours, masks, bias and colour, context, provenance"
    assert f"Not measured: {absent}." in document.texts["footer"]
    assert "cannot be read" not in document.texts["footer"]


def test_a_run_that_has_only_begun(tmp_path):
    write_json(tmp_path / "config.json", {"steps": 5})
    document = Document(write_page(tmp_path).read_text(encoding="utf-8"))
    assert [tag.attributes["id"] for tag in document.all("section")] == ["configuration"]
    assert tmp_path.name in document.texts["header"] and "Step 0 of 5" in document.texts["header"]


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "report.json", "diagnostics.json", "evaluations/steps_5/metrics.json"]
)
def test_a_damaged_file_is_named(folder, tmp_path, name, monkeypatch):
    monkeypatch.setattr(write, "SECTIONS", {})
    left = shutil.copytree(folder, tmp_path / "run")
    (left / name).write_text('{"step": 1\n[]\n')
    footer = Document(write_page(left).read_text(encoding="utf-8")).texts["footer"]
    assert f"{name} cannot be read." in footer


@pytest.mark.parametrize("content", [None, "[1]", "{"])
def test_no_run(tmp_path, content):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json") as caught:
        write_page(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "report.html").exists()


def test_hostile_names_are_texts(tmp_path):
    hostile = '<script>alert("$x$ & y")</script>'
    run = write_run(tmp_path, finished=False)
    config = CONFIG | {"name": hostile, hostile: hostile, "model": {"name": hostile}}
    write_json(run / "config.json", config)
    found = {**REPORT, "name": hostile, "metrics": {hostile: 1.0}}
    found["provenance"] = REPORT["provenance"] | {"device": hostile, "versions": {hostile: hostile}}
    write_json(run / "report.json", found)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 900, "quality/<b>_$^$": 1, "quality/_": 2}\n')
    for i, guidance in enumerate((1.0, 2.0)):
        settings = {"guidance": guidance, "sampler": f"_{hostile}", hostile: i // 2}
        result = {"features": {"name": hostile}, "num": 5, "values": {hostile: 1.0, "字": 2.0}, "created": hostile}
        write_json(run / f"evaluations/<b>{i}/metrics.json", {"settings": settings, "results": [result]})
    write_json(
        run / "diagnostics.json", {"step": hostile, "sampler": hostile, "bias": 3, "context": [{"pixel": hostile}]}
    )
    document = Document(write_page(run, DEFAULTS).read_text(encoding="utf-8"))
    assert not document.all("script", "b")
    assert hostile in document.texts["header"] and hostile in document.texts["figures"]
    assert hostile in document.texts["evaluations"] and "<b>0" in document.texts["evaluations"]
    assert document.texts["sweeps"].count(hostile) >= 1 and "<b> $^$" in document.texts["quality"]


def test_equal_files_give_equal_bytes(folder, text):
    assert write_page(folder, DEFAULTS).read_text(encoding="utf-8") == text
    assert len(text.encode()) < 1.5e6
    assert not list(folder.glob(".*"))  # nothing temporary is left


def test_a_new_section_is_a_line(tmp_path, monkeypatch):
    write_json(tmp_path / "config.json", {})
    monkeypatch.setattr(write, "SECTIONS", {"mine": ("Mine", lambda run: note(f"<{run.step}>"))})
    document = Document(write_page(tmp_path).read_text(encoding="utf-8"))
    assert [(tag.attributes["id"]) for tag in document.all("section")] == ["mine"]
    assert "<0>" in document.texts["mine"]


def test_throughput_survives_a_restart(tmp_path):
    run = write_run(tmp_path, finished=False)
    lines = rows(800)
    for row in lines[8:]:  # a clock that began again, and half an hour of waiting
        row["seconds"] -= 500
    for row in lines[12:]:
        row["seconds"] += 1800
    (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in map(json.dumps, lines)))
    shown = section(run, "throughput").split("\n")
    assert shown[shown.index("Images per second") + 1] == "100"
    assert f"median; 4.69{THIN}GFLOP/s" in shown  # 6 GFLOP in a step of 1.28 s


@pytest.mark.parametrize("n", [1, 399, 400, 401, 5000])
def test_thinning_loses_no_peak(n):
    x, y = np.arange(n, dtype=float), np.random.default_rng(0).normal(size=n)
    y[n // 3], y[n // 2] = 50, -50
    at, kept = thinned(x, y)
    assert len(at) <= MOST and (np.diff(at) > 0).all()
    assert (at[0], at[-1]) == (0, n - 1)
    assert (kept == y[at.astype(int)]).all()
    assert kept.max() == y.max() and kept.min() == y.min()


def test_thinning_keeps_gaps():
    y = np.ones(4000)
    y[1000:2000] = np.nan
    at, kept = thinned(np.arange(4000.0), y)
    gap = at[np.isnan(kept)]
    assert len(gap) and gap.min() < 1020 and gap.max() > 1970


def test_running_mean():
    y = np.random.default_rng(0).normal(size=50)
    y[7] = np.nan
    found = smooth(y, 5)
    expected = [np.nanmean(y[max(0, i - 2) : i + 3]) for i in range(50)]
    assert found == pytest.approx(np.array(expected))
    assert np.isnan(smooth(np.array([np.nan] * 9), 3)).all()


def test_charts_share_a_document():
    line = Line("loss", np.arange(3.0), np.array([1.0, np.nan, 2.0]))
    first, second, again = (chart(name, "A loss", [line, line], Axes("step")) for name in ("a", "b", "a"))
    assert first == again
    ids = [tag.attributes["id"] for tag in Document(first + second).tags if "id" in tag.attributes]
    assert len(ids) == len(set(ids))
    assert chart("c", "Nothing", [Line("", np.arange(2.0), np.array([np.nan, np.nan]))], Axes()) == ""


def test_charts_follow_the_page():
    """No colour of text or lines is fixed, so that a dark page may change them; texts stay texts."""
    lines = [Line(f"line {i}", np.arange(3.0), np.arange(3.0) + i, colour=i) for i in range(6)]
    drawn = chart("a", "Lines", lines, Axes("step", "loss"), {"reference": 2.0})
    assert not re.search(r"(stroke|fill): ?#", drawn)
    assert all(f"var(--s{i})" in drawn for i in range(6)) and "var(--ink)" in drawn
    assert "line 3" in Document(drawn).texts[""] and "reference" in Document(drawn).texts[""]


def test_sweeps_differ_in_one_setting():
    def evaluation(fid, num=10, **settings):
        settings |= {"seed": settings.get("seed", 0), "sample": {"guidance.scale": settings["guidance"], "clip": True}}
        return Evaluation("e", settings, {"name": "pixels"}, num, {"fid": fid}, None, "")

    found = [
        evaluation(1, guidance=2.0, steps=5),
        evaluation(2, guidance=1.0, steps=5),
        evaluation(3, guidance=1.0, steps=9),
        evaluation(4, guidance=3.0, steps=5, seed=1),
        evaluation(5, guidance=3.0, steps=5, num=20),
        evaluation(6, guidance=2.0, steps=5),
        evaluation(7, guidance="auto", steps=5),
    ]
    sweeps = [{x: e.values["fid"] for x, e in group.items()} for group in grouped(found, "guidance") if len(group) > 1]
    assert sweeps == [{1.0: 2, 2.0: 6}]  # of equals, the last
    steps = [{x: e.values["fid"] for x, e in group.items()} for group in grouped(found, "steps") if len(group) > 1]
    assert steps == [{5.0: 2, 9.0: 3}]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 10, 500])
def test_grids_run_from_first_to_last(count):
    steps = [10 * i for i in range(1, count + 1)]
    found = spread(steps, 7)
    assert found == sorted(set(found)) and set(found) <= set(steps)
    assert len(found) == min(count, 7) and (found[0], found[-1]) == (steps[0], steps[-1])


def test_large_pictures_are_made_smaller(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1800, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    assert (tmp_path / "large.png").stat().st_size > 10 * LARGE
    large = picture(tmp_path / "large.png", "noise")
    assert large.startswith('<img src="data:image/jpeg;base64,') and 'width="1800" height="1500"' in large
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert picture(tmp_path / "broken.png", "nothing") == ""


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (show(0.4539901), "0.454"),
        (show(12345.6), "12,346"),
        (show(0), "0"),
        (show(-2.5), "−2.50"),
        (show(1.25e-6), "1.25·10⁻⁶"),
        (show(None), DASH),
        (show("nan"), DASH),
        (show(float("nan")), DASH),
        (show("inf"), "∞"),
        (show(True), DASH),
        (measured(0.01012, 0.00123), "0.0101 ± 0.0012"),
        (measured(3.14159, None), "3.14"),
        (measured(None, 0.1), DASH),
        (whole(76800), "76,800"),
        (amount(716_000), f"716{THIN}k"),
        (amount(3.1e13, "FLOP"), f"31{THIN}TFLOP"),
        (amount(12), "12"),
        (duration(160), f"2{THIN}min 40{THIN}s"),
        (duration(4321), f"1{THIN}h 12{THIN}min"),
        (duration(None), DASH),
        (tick(1200.0), "1.2k"),
        (tick(-0.02), "−0.02"),
        (tick(2e-5), "2·10⁻⁵"),
        (tick(1e-5), "10⁻⁵"),
    ],
)
def test_numerals(found, expected):
    assert found == expected
