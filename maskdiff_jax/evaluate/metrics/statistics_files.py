"""Statistics of reference images in files: our own, and those of ADM's and EDM's authors.

A file is an .npz with ``mu`` [d] and ``sigma`` [d, d] of pooled features and, where there are any, ``mu_s`` and
``sigma_s`` of spatial ones. ADM's files hold images (``arr_0``) too, which are not read. Ours say what they are of.
Nothing is ever unpickled.
"""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from maskdiff_jax.evaluate.metrics.moments import Moments
from maskdiff_jax.train.files import write_atomically


class About(NamedTuple):
    """What statistics are of: the name of the features, the SHA-256 of their weights, and the data's fingerprint.

    ``count``: how many images. Two statistics compare only where ``features`` and ``weights`` are the same.
    """

    features: str
    weights: str
    data: str
    count: int


class Reference(NamedTuple):
    """Moments of pooled and, perhaps, of spatial features; ``about`` is None for a file that does not say."""

    moments: Moments
    spatial: Moments | None = None
    about: About | None = None


def write_reference(path: str | Path, reference: Reference) -> None:
    """Write statistics atomically as .npz; EDM's tools read them too. Raises ValueError where ``about`` is None."""
    if reference.about is None:
        raise ValueError("statistics must say what they are of")
    arrays: dict[str, Any] = {"mu": reference.moments.mean, "sigma": reference.moments.covariance}
    if reference.spatial is not None:
        arrays |= {"mu_s": reference.spatial.mean, "sigma_s": reference.spatial.covariance}
    buffer = io.BytesIO()
    arrays |= {key: np.array(value) for key, value in reference.about._asdict().items()}
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def read_reference(path: str | Path, width: int | None = None) -> Reference:
    """The statistics of an .npz file of ours, ADM's or EDM's; the moments' count is 0 where the file does not say.

    Raises ValueError, in one line, for a file that is missing, no .npz, pickled, lacks mu or sigma, or whose arrays do
    not fit each other or, where given, features of ``width``.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if isinstance(arrays, np.ndarray):
                raise ValueError("it is a single array")
            found = {key: arrays[key] for key in arrays.files if key != "arr_0"}
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such statistics file") from error
    except (OSError, ValueError, BadZipFile, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a statistics file (.npz of plain arrays): {reason}") from error
    about = None
    if all(key in found for key in About._fields):
        about = About(str(found["features"]), str(found["weights"]), str(found["data"]), int(found["count"]))
    count = about.count if about else 0
    reference = Reference(_moments(path, found, "mu", "sigma", count), None, about)
    if width is not None and reference.moments.mean.size != width:
        raise ValueError(f"{path}: statistics of {reference.moments.mean.size} features, {width} needed")
    if "mu_s" in found:
        reference = reference._replace(spatial=_moments(path, found, "mu_s", "sigma_s", count))
    return reference


def cached_reference(folder: str | Path, about: About, compute: Callable[[], Reference]) -> Reference:
    """The statistics that ``about`` describes: from their file in ``folder``, or by ``compute()``, which fills it.

    The name of the file is a digest of all of ``about``: other data, features, weights or another count are another
    file. Raises ValueError for a file that is damaged, or is of something else than its name says.
    """
    path = Path(folder) / f"{about.features}-{_digest(about)}.npz"
    if not path.exists():
        reference = compute()._replace(about=about)
        write_reference(path, reference)
        return reference
    reference = read_reference(path)
    if reference.about != about:
        raise ValueError(f"{path}: statistics of {reference.about}, not of {about}: delete the file")
    return reference


def _moments(path: Path, found: dict[str, np.ndarray], mean: str, covariance: str, count: int) -> Moments:
    missing = [key for key in (mean, covariance) if key not in found]
    if missing:
        raise ValueError(f"{path}: no {' and no '.join(missing)}, only {', '.join(sorted(found)) or 'nothing'}")
    mu, sigma = found[mean], found[covariance]
    if mu.ndim != 1 or sigma.shape != (mu.size, mu.size) or not mu.size:
        raise ValueError(f"{path}: {mean} {list(mu.shape)} and {covariance} {list(sigma.shape)} are not [d] and [d, d]")
    if not all(np.issubdtype(array.dtype, np.floating) and np.isfinite(array).all() for array in (mu, sigma)):
        raise ValueError(f"{path}: {mean} or {covariance} is not of finite floats")
    return Moments(mu.astype(np.float64), sigma.astype(np.float64), count)


def _digest(about: About) -> str:
    return hashlib.sha256(repr(tuple(about)).encode()).hexdigest()[:16]
