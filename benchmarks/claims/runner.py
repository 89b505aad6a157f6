"""The runs of a claim, each an ordinary run of the trainer in a workdir of its own, and what is measured of them.

OUT/runs/ARM/seed_N/    a run; it is finished when it has its report
OUT/runs/ARM/seed_N/figures.json    what was measured of its checkpoints
OUT/noise.json          the batches of the noise-matched controls
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from benchmarks.claims import noise
from benchmarks.claims.judge import Tools, View
from benchmarks.claims.plan import Arm, Figures, Plan, arm_of, overlay
from maskdiff_jax import inference, run
from maskdiff_jax.evaluate.curves import AXES, curve_of
from maskdiff_jax.evaluate.curves_runs import cost_inherited
from maskdiff_jax.masks import SUPERVISIONS, VISIBILITIES
from maskdiff_jax.parts import flatten, part
from maskdiff_jax.stages import Stage, build_stages
from maskdiff_jax.train.files import read_json, write_json
from maskdiff_jax.train.writers import read_jsonl

QUIET: dict[str, Any] = {  # of the trainer's own evaluation: all runs of a claim are judged by one judge, afterwards
    "evaluate": {"num": 0, "judge": {"name": "none"}, "metrics": ()},
    "log": {"sample_every": 0, "quality_every": 0, "page": False, "every": 50, "heldout_every": 250},
}

DRAWS, SMOKE_DRAWS = 128, 3  # of the variance of a gradient


class Stopped(Exception):
    """A run was stopped before its end; ``status`` is the exit status."""

    def __init__(self, status: int):
        super().__init__("stopped; the same command goes on")
        self.status = status


class Campaign:
    """A plan in a folder: ``seeds`` runs of every arm, made or found there. ``data`` is a path to the plan's data.

    ``steps`` of every arm, in place of the plan's or of those that are timed.
    """

    def __init__(
        self, plan: Plan, out: Path, seeds: int, data: str = "", smoke: bool = False, steps: int | None = None
    ):
        self.plan, self.out, self.seeds, self.data = plan, out, seeds, data
        self.tools = Tools(out / "features", smoke)
        self.steps = steps
        self._stages: dict[str, tuple[Stage, ...]] = {}

    def workdir(self, arm: Arm, seed: int) -> Path:
        return self.out / "runs" / slug(arm.network or arm.name) / f"seed_{seed}"

    def order(self) -> Iterator[tuple[Arm, int]]:
        """Seed by seed, so that an interrupted campaign has whole seeds."""
        return ((arm, seed) for seed in range(self.seeds) for arm in self.plan.arms)

    def config(self, arm: Arm, seed: int) -> ConfigDict:
        """The config of a run: the plan's, with the arm's changes. Arms of one seed share it, and so all noise."""
        config = self.plan.config()
        for changes in (QUIET, {"log": {"checkpoint_every": self.plan.every, "keep_every": self.plan.every}}):
            overlay(config, changes)
        overlay(config, self.plan.changes)
        if arm.network:
            overlay(config, arm_of(self.plan, arm.network).changes)
        overlay(config, arm.changes)
        overlay(config, self.plan.last)
        config.seed = seed
        if self.data:
            overlay(config, {"data": {self.plan.data: self.data}})
        if self.steps is not None:
            overlay(config, {"steps": self.steps})
        if arm.source:
            overlay(config, {"init_from": str(self.workdir(arm_of(self.plan, arm.source), seed))})
        if arm.matches is not None:
            overlay(config, {"batch": self.match(arm).batch})
        config.name = arm.name
        return config

    def execute(self) -> None:
        """Train what is not finished. Raises Stopped where a run was stopped, and what the trainer raises."""
        if self.plan.seconds and self.steps is None:
            self.calibrate()
        for arm, seed in self.order():
            if arm.network:
                continue
            config, workdir = self.config(arm, seed), self.workdir(arm, seed)
            run.check_workdir(workdir, config)
            if (workdir / "report.json").exists():
                print(f"{workdir}: finished", flush=True)
                continue
            print(f"\n{arm.name}, seed {seed}: {workdir}", flush=True)
            self.train(config, workdir)

    def train(self, config: ConfigDict, workdir: Path) -> None:
        status = run.train(config, workdir)
        if status or not (workdir / "report.json").exists():
            raise Stopped(status or 143)
        self.tools.forget()

    def calibrate(self) -> None:
        """The number of steps that take ``plan.seconds``, from a short run of the first arm; kept in OUT/calibration.

        All arms take as many.
        """
        arm, workdir = self.plan.arms[0], self.out / "calibration"
        config = self.config(arm, 0)
        overlay(config, {"steps": 200, "schedule": {"warmup": 1}, "log": {"every": 50, "heldout_every": 0}})
        if not (workdir / "report.json").exists():
            self.train(config, workdir)
        times = {row["step"]: row["seconds"] for row in read_jsonl(workdir / "metrics.jsonl") if "seconds" in row}
        self.steps = steps_in(self.plan.seconds, times, self.plan.every)
        print(f"{self.steps} steps of about {(times[200] - times[100]) / 100:.3g} s for each arm", flush=True)

    def match(self, arm: Arm) -> noise.Match:
        """The cut batch of a noise-matched arm, measured once and kept."""
        path = self.out / "noise.json"
        known = read_json(path) if path.exists() else {}
        if arm.name not in known:
            assert arm.matches is not None
            dense, sparse = (arm_of(self.plan, name) for name in arm.matches)
            (stage,), (other,) = self.stages(dense), self.stages(sparse)
            kept = self.kept(dense, 0)
            middle = kept[(len(kept) - 1) // 2]
            params = inference.load((stage,), self.workdir(dense, 0), str(middle))[1].params
            draws = SMOKE_DRAWS if self.tools.smoke else DRAWS
            match = noise.matched_batch(stage.experiment, other.experiment, params, middle, draws)
            known[arm.name] = match._asdict()
            write_json(path, known)
            print(f"{arm.name}: batch {known[arm.name]['batch']} of {stage.experiment.config.batch}", flush=True)
        return noise.Match(**known[arm.name])

    def stages(self, arm: Arm) -> tuple[Stage, ...]:
        """The stages of an arm, built once: what is measured does not depend on the seed."""
        config = self.config(arm, 0)
        config.name = ""
        key = repr(sorted(flatten(config).items(), key=str))
        if key not in self._stages:
            self._stages[key] = build_stages(config)
        return self._stages[key]

    def kept(self, arm: Arm, seed: int) -> list[int]:
        """The checkpoints at which a run is measured: every multiple of ``plan.every``, and its last step."""
        folder, last = self.workdir(arm, seed), read_json(self.workdir(arm, seed) / "report.json")["steps"]
        steps = sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())
        return [step for step in steps if step % self.plan.every == 0 or step == last]

    def figures(self, arm: Arm, seed: int) -> Figures:
        """What is measured of a finished run, at its kept checkpoints and at the end; kept beside the run.

        "curves": {metric: {axis: [...], "value": [...]}}, and "end": {figure: number}.
        """
        workdir, plan = self.workdir(arm, seed), self.plan
        path = workdir / (f"figures_{slug(arm.name)}.json" if arm.network else "figures.json")
        settings = {"along": plan.along, "end": plan.end, "samples": plan.samples, "reference": plan.reference}
        asked = {name: list(v) if isinstance(v, tuple) else v for name, v in settings.items()}
        if path.exists() and (known := read_json(path))["settings"] == asked:
            return known
        print(f"measuring {arm.name}, seed {seed}", flush=True)
        stages, steps = self.stages(arm), self.kept(arm, seed)
        report, rows = read_json(workdir / "report.json"), read_jsonl(workdir / "metrics.jsonl")
        points: list[Figures] = []
        end: Figures = {}
        for step in steps if plan.along else steps[-1:]:
            stage, trained = inference.load(stages, workdir, str(step))
            view = View(stage.experiment, trained.params, arm, plan, self.tools)
            last = step == steps[-1]
            names = tuple(dict.fromkeys((*plan.along, *(plan.end if last else ()))))
            found = view.metrics(names) if names else {}
            points.append({"step": step} | {name: found[name] for name in plan.along})
            if last:
                end = found | (plan.extra(view) if plan.extra else {})
        inherited = cost_inherited(workdir)
        curves = {"heldout loss": curve_of(rows, "heldout_ema/loss", inherited)}
        for name in plan.along:
            only = [{"step": p["step"], name: p[name]} for p in points]
            curves[name] = curve_of([*(r | {name: None} for r in rows), *only], name, inherited)
        end["heldout loss"] = report["heldout"]["loss"]
        for name in plan.along:
            values = [p[name] for p in points]
            end |= {f"{name} best": min(values), f"{name} last/best": values[-1] / min(values)}
        before = dict.fromkeys(AXES, 0.0) if inherited is None else inherited
        found = {
            "settings": asked,
            "end": end,
            "curves": {name: {**c.cost, "value": c.value} for name, c in curves.items()},
            "flops": report["flops"] + before["flops"],
            "seconds": report["seconds"] + before["seconds"],
            "steps": report["steps"],
            "inherited": inherited,
            "parameters": report["parameters"],
            "batch": [stage.experiment.config.batch for stage in stages],
            "supervised": [supervised_elements(stage.experiment) for stage in stages],
            "provenance": report["provenance"],
        }
        write_json(path, found)
        self.tools.forget()
        return read_json(path)


def supervised_elements(experiment: Any) -> float:
    """Elements of one batch that carry loss, on average: images · elements · visible share · kept share."""
    config, tokens = experiment.config, experiment.model.tokens
    shape, visible = experiment.codec.shape(experiment.image_shape), 1.0
    answered = shape
    if tokens is not None:
        n, p = math.prod(tokens.grid), tokens.patch
        seen = float(part("visibility", VISIBILITIES, config.visibility).inclusion(tokens.grid).sum())
        visible, answered = seen / n, (round(seen), p, p, shape[-1])
    kept = part("supervision", SUPERVISIONS, config.supervision).inclusion(answered)
    return config.batch * math.prod(shape) * visible * kept


def steps_in(seconds: float, times: dict[int, float], every: int) -> int:
    """How many steps, a multiple of ``every``, take at least ``seconds``, by the times at two steps and more.

    The first half of the steps timed is left out: it holds the compilation. Raises ValueError for fewer than 3 times.
    """
    if len(times) < 3:
        raise ValueError(f"steps are timed at three steps or more, got {sorted(times)}")
    order = sorted(times)
    first, last = order[len(order) // 2 - 1 if len(order) > 3 else 1], order[-1]
    each = (times[last] - times[first]) / (last - first)
    return math.ceil(seconds / each / every) * every


def slug(name: str) -> str:
    """A name as that of a folder."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", name).strip("_")
