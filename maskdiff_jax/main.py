"""The command line: train, sample, evaluate and export; prepare data and plan a run.

    python -m maskdiff_jax.main --config=configs/cifar_sparse.py [--workdir=D] [--config.key=value …]
    python -m maskdiff_jax.main --mode=prepare --config=configs/cifar_sparse.py
    python -m maskdiff_jax.main --mode=encode --config=configs/folder_latent.py --config.encode.vae=V …
    python -m maskdiff_jax.main --mode=plan --config=configs/cifar_sparse.py [--devices=8 --memory=80]
    python -m maskdiff_jax.main --mode=benchmark --config=configs/cifar_sparse.py [--sweep=ratio,batch]
    python -m maskdiff_jax.main --mode=sample --workdir=D [--num=64 --guidance=2 --labels=3,7 …]
    python -m maskdiff_jax.main --mode=evaluate --workdir=D [--steps=50 …]
    python -m maskdiff_jax.main --mode=evaluate --workdir=D --metrics=fid,kid --num=50000 [--guidance=1,1.5,2 …]
    python -m maskdiff_jax.main --mode=diagnose --workdir=D
    python -m maskdiff_jax.main --mode=report --workdir=D
    python -m maskdiff_jax.main --mode=export --workdir=D [--format=diffusers --vae=V --out=F]

The last six read D/config.json, so nothing is retyped. Bad input ends in one line and exit status 2.
"""

import math
import os
import runpy
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from maskdiff_jax import machine
from maskdiff_jax.overrides import drop_stale_options, own_overrides, put

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="config file; --config.key=value overrides a key",
    lock_config=False,
    accept_new_attributes=True,  # another part's options; `build` refuses what no part knows
)
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run [runs/<config name>]")
_MODES = ["train", "sample", "evaluate", "diagnose", "report", "export", "prepare", "encode", "plan", "benchmark"]
_MODE = flags.DEFINE_enum("mode", "train", _MODES, "what to do")

_NUM = flags.DEFINE_integer("num", None, "sample, evaluate: number of images", lower_bound=1)
_STEPS = flags.DEFINE_list("steps", None, "sample, evaluate: sampling steps; several with --metrics")
_GUIDANCE = flags.DEFINE_list("guidance", None, "sample, evaluate: guidance scale, 1 is none; several with --metrics")
_SAMPLER = flags.DEFINE_string("sampler", None, "sample, evaluate: name of a sampler")
_SEED = flags.DEFINE_integer("seed", None, "sample, evaluate: seed of the noise [0]", lower_bound=0)
_LABELS = flags.DEFINE_list("labels", None, "sample: class numbers, repeated in turn [0,1,2,…]")
_CAPTIONS = flags.DEFINE_multi_string("captions", None, "sample: a caption, or a file of one a line; may be repeated")
_CONTROLS = flags.DEFINE_list("controls", None, "sample: controls of all images, as flip=1,scale=12 [the data's]")
_METRICS = flags.DEFINE_list("metrics", None, "evaluate: these alone, of new samples, as fid,kid,precision")
_FEATURES = flags.DEFINE_string("features", None, "evaluate: what --metrics are computed on [the config's]")
_WEIGHTS = flags.DEFINE_string("weights", None, "evaluate: file of the weights of these features")
_REFERENCE = flags.DEFINE_string("reference", None, "evaluate: statistics (.npz) for the training images")
_OUT = flags.DEFINE_string(
    "out", None, "sample: a .png, the .npz beside it [D/samples/…]; benchmark: .json; export: a folder"
)
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "sample, evaluate, export: newest, best, or a step [newest]")
_FORMAT = flags.DEFINE_enum("format", None, ["safetensors", "diffusers"], "export: what is written [safetensors]")
_VAE = flags.DEFINE_string("vae", None, "export: folder of the AutoencoderKL of a diffusers pipeline, copied [none]")
_DEVICES = flags.DEFINE_integer("devices", None, "plan: number of devices [those here]", lower_bound=1)
_MEMORY = flags.DEFINE_float("memory", None, "plan: GiB of each device [what it reports]")

_ONLY = flags.DEFINE_list("only", None, "benchmark: ceilings, step, roofline, input, sampling [all]")
_SWEEP = flags.DEFINE_list("sweep", None, "benchmark: the step for several values of batch, tokens, ratio, devices")
_ROUNDS = flags.DEFINE_integer("rounds", None, "benchmark: timings of each kind [5]", lower_bound=1)

_COORDINATOR = flags.DEFINE_string("coordinator", None, "several processes: host:port of process 0, or auto")
_PROCESSES = flags.DEFINE_integer("num_processes", None, "several processes: how many", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process_id", None, "several processes: number of this one, from 0", lower_bound=0)

_OWN: dict[str, Any] = {}  # what `own_overrides` found on the command line

_SAMPLING = {flag.name: flag for flag in (_NUM, _STEPS, _GUIDANCE, _SAMPLER, _SEED, _CHECKPOINT)}
_ALLOWED = {
    "train": {},
    "prepare": {},
    "encode": {},
    "plan": {"devices": _DEVICES, "memory": _MEMORY},
    "sample": _SAMPLING | {"labels": _LABELS, "captions": _CAPTIONS, "controls": _CONTROLS, "out": _OUT},
    "evaluate": _SAMPLING | {"metrics": _METRICS, "features": _FEATURES, "weights": _WEIGHTS, "reference": _REFERENCE},
    "diagnose": {"num": _NUM, "seed": _SEED, "checkpoint": _CHECKPOINT},
    "report": {},
    "export": {"format": _FORMAT, "vae": _VAE, "out": _OUT, "checkpoint": _CHECKPOINT},
    "benchmark": {"only": _ONLY, "sweep": _SWEEP, "rounds": _ROUNDS, "out": _OUT},
}
_OF_A_RUN = ("sample", "evaluate", "diagnose", "report", "export")  # these read the run's own config
_CLUSTER = {flag.name: flag for flag in (_COORDINATOR, _PROCESSES, _PROCESS)}
_DISTRIBUTED = ("train", "encode", *_OF_A_RUN)
_FAREWELL_SECONDS = 10  # the runtime aborts after 15


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}: options start with --")
    logging.set_verbosity(logging.get_verbosity() if _verbose() else logging.WARNING)
    mode = _MODE.value
    for option, flag in {name: flag for options in _ALLOWED.values() for name, flag in options.items()}.items():
        if flag.value is not None and option not in _ALLOWED[mode]:
            fail(f"--{option} does not go with --mode={mode}")
    for option, flag in _CLUSTER.items():
        if flag.value is not None and mode not in _DISTRIBUTED:
            fail(f"--{option} does not go with --mode={mode}")
    if _CONFIG.value is None and (mode not in _OF_A_RUN or _WORKDIR.value is None):
        or_a_run = " (or a run: --workdir=…)" if mode in _OF_A_RUN else ""
        fail(f"name a config: --config=configs/digits_sparse.py{or_a_run}")
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem if _CONFIG.value is not None else ""
    workdir = Path(_WORKDIR.value or Path("runs") / name)

    import jax  # after the flags: --help and typing errors answer at once

    from maskdiff_jax import benchmark, encode, inference, plan, run
    from maskdiff_jax.data import DataError
    from maskdiff_jax.parts import ConfigError
    from maskdiff_jax.sitting import BadSteps
    from maskdiff_jax.train.failing import peer_lost

    try:
        if mode in _DISTRIBUTED:
            connect()
        overrides = config_flags.get_override_values(flags.FLAGS["config"]) if _CONFIG.value is not None else {}
        overrides |= _OWN
        given = _ALLOWED[mode].items()
        settings: dict[str, Any] = {option: flag.value for option, flag in given if flag.value is not None}
        if "controls" in settings:
            settings["controls"] = dict(map(_number, settings["controls"]))
        if "captions" in settings:
            settings["captions"] = [line for text in settings["captions"] for line in _lines(text)]
        for option, kind in (("steps", int), ("guidance", float)):
            if option in settings:
                settings[option] = [_scalar(option, text, kind) for text in settings[option]]
        if mode not in _OF_A_RUN:
            config = ConfigDict(_CONFIG.value)
            config.name = config.get("name") or name
            for path, value in _OWN.items():
                put(config, path, value)
            drop_stale_options(config, _without_overrides(), overrides)
            if mode == "train":
                try:
                    sys.exit(run.train(config, workdir))
                except BadSteps as error:
                    fail(str(error), status=1)
                except FloatingPointError as error:  # of config.debug_nans
                    own = [f for f in traceback.extract_tb(error.__traceback__) if "maskdiff_jax" in f.filename][-1]
                    fail(f"{str(error).splitlines()[0]}, at {own.filename}:{own.lineno}: {own.line}", status=1)
            alone = {"plan": plan.plan, "prepare": run.prepare, "encode": encode.encode}
            {**alone, "benchmark": benchmark.benchmark}[mode](config, **settings)
            return
        config, stored = (inference.read_config(workdir) for _ in range(2))
        for path, value in overrides.items():
            put(config, path, value)
        drop_stale_options(config, stored, overrides)
        _functions()[mode](config, workdir, **settings)
    except (ConfigError, DataError, OSError) as error:  # a checkpoint's errors are of the last kind
        if not jax.distributed.is_initialized():
            fail(str(error))
        leave(str(error), status=2, farewell=jax.distributed.shutdown)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not (why := peer_lost(error)):
            raise
        leave(f"another process of this run is gone ({why}); start all again, from the newest checkpoint they go on")
    except KeyboardInterrupt:  # training has its own way of stopping
        print("\ninterrupted; the same command starts again", file=sys.stderr)
        sys.exit(130)


def _functions() -> dict[str, Callable[..., Any]]:
    """What is done with a run: mode -> function of its config, its workdir and the options of the mode."""
    from maskdiff_jax import diagnosis, evaluation, export, inference, reporting

    return {
        "sample": inference.sample,
        "evaluate": evaluation.evaluate,
        "diagnose": diagnosis.diagnose,
        "report": reporting.report,
        "export": export.export,
    }


def fail(message: str, status: int = 2) -> NoReturn:
    """One line on stderr, and the exit status: 2 for bad input, 1 for a run that goes wrong."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def connect() -> None:
    """Find the other processes of the run, where it has several."""
    from maskdiff_jax import distributed

    try:
        distributed.start(distributed.find(os.environ, _COORDINATOR.value, _PROCESSES.value, _PROCESS.value))
    except ValueError as error:
        fail(str(error))
    except distributed.DistributedError as error:
        leave(str(error))


def leave(message: str, status: int = 1, farewell: Callable[[], None] = lambda: None) -> NoReturn:
    """As `fail`, but the others of the run may be gone, or go on, and are not waited for at the end.

    The runtime's ``farewell`` would wait, then abort. It is given `_FAREWELL_SECONDS`: others that meet the same error
    come to it, and are not aborted because the first process has left.
    """
    print(f"error: {message}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    thread = threading.Thread(target=farewell, daemon=True)
    thread.start()
    thread.join(_FAREWELL_SECONDS)
    os._exit(status)


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the command line. A config file may import its base, wherever the command is run from."""
    _OWN.clear()
    try:
        argv, own = own_overrides(argv)
    except ValueError as error:
        fail(str(error))
    _OWN.update(own)
    for argument in argv:
        if argument.lstrip("-").startswith("config="):
            name, colon, extra = argument.partition("=")[2].partition(":")
            path = find_config(name)
            argv = [f"--config={path}{colon}{extra}" if a is argument else a for a in argv]
            sys.path += [str(path.parent), str(path.parent.parent), os.getcwd()]
    whole = sys.argv
    try:
        sys.argv = argv  # where ml_collections looks for overrides
        return flags.FLAGS(argv)
    except (flags.Error, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
        # of an error inside a config file ml_collections gives a title and the traceback, of which the end says what
        fail(f"{lines[0]} {lines[-1]}" if lines[0].endswith(":") else lines[0])
    finally:
        sys.argv = whole


def find_config(name: str) -> Path:
    """A config file by its path, or one of the project's own by its name (``digits_sparse``). Fails without one."""
    path = Path(name)
    if path.is_file():
        return path.resolve()
    package = Path(__file__).parent
    shipped = [folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()]
    for folder in shipped:
        if path.suffix == "" and (folder / f"{name}.py").is_file():
            return folder / f"{name}.py"
    known = sorted(p.stem for folder in shipped[:1] for p in folder.glob("*.py") if p.stem != "__init__")
    fail(f"--config: no file {name!r}, and no shipped config of that name; there are {', '.join(known)}")


def _without_overrides() -> ConfigDict:
    path, _, argument = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return runpy.run_path(path)["get_config"](*([argument] if argument else []))


def _number(text: str) -> tuple[str, float]:
    """ "scale=12" -> ("scale", 12.0)."""
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        fail(f"--controls: {text!r} is not of the form name=number")


def _lines(text: str) -> list[str]:
    """The lines of a file, where there is one of that name; or else the text itself."""
    path = Path(text)
    return path.read_text(encoding="utf-8").splitlines() if len(text) < 256 and path.is_file() else [text]


def _scalar(option: str, text: str, kind: type[int] | type[float]) -> float:
    """One of the numbers of an option: a whole one of at least 1, or a finite one."""
    try:
        value = kind(text)
        if (kind is int and value < 1) or not math.isfinite(value):
            raise ValueError
        return value
    except ValueError:
        wanted = "a whole number of at least 1" if kind is int else "a number"
        fail(f"--{option}: {text!r} is not {wanted}")


def _verbose() -> bool:
    return flags.FLAGS["verbosity"].present > 0


def cli() -> None:
    """Entry point."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own notes at start-up
    machine.keep_freed_memory(os.environ)
    machine.multiply_with_eigen(os.environ)
    machine.keep_programs(machine.cache_folder(os.environ))
    app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
    cli()
