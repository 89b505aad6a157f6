from maskdiff_jax.evaluate.curves import compare
from maskdiff_jax.evaluate.curves_text import tables, verdict
from tests.evaluate.test_curves import curve, reciprocals


def test_verdict_names_the_winner_first():
    for order in (("fast", "slow"), ("slow", "fast")):
        (sentence,) = verdict(compare({label: reciprocals()[label] for label in order}))
        assert sentence == (
            "**fast** reaches the best of **slow** (0.2) with 2× fewer steps (500 against 1,000), 1.5× more FLOPs "
            "(1,500 against 1,000) and as many seconds (250 against 250); "
            "**slow** never reaches the best of **fast** (0.1)."
        )
    assert len(verdict(compare(dict.fromkeys("abcd", reciprocals()["fast"])))) == 6
    assert verdict(compare({"a": reciprocals()["fast"]})) == []


def test_tables_are_whole():
    arms = reciprocals() | {"a|b": [curve(lambda s, k=k: k / s) for k in (1, 2)]}
    text = tables(compare(arms), dict.fromkeys(arms, "–"))
    for table in text.split("\n\n"):
        lines = table.splitlines()
        assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
        assert len({len(line) for line in lines}) == 1
    assert text.count("never") == 3 * 3  # slow reaches neither, and fast not a|b
    assert f"{0.0015:.4g} ± " in text
