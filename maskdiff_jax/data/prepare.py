"""Download a data set of TensorFlow Datasets and write it as ArrayRecord, without TensorFlow."""

import io
import textwrap
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from maskdiff_jax.data.gfile import patched, without_tensorflow
from maskdiff_jax.data.source import DataError

_RETRIES = 5  # of a download, over 6 s; TFDS's own ten take 200 s to find out that there is no network


def data_folder(data_dir: str | PathLike | None) -> epath.Path:
    """``data_dir``, by default TFDS's own (~/tensorflow_datasets)."""
    from tensorflow_datasets.core import constants  # only for those who use it

    return epath.Path(data_dir or constants.DATA_DIR).expanduser()  # also gs://


def prepare(dataset: str, data_dir: str | PathLike | None = None) -> epath.Path:
    """Download and prepare ``dataset`` ("cifar10", "name/config", "name:1.2.3") in ``data_dir``; the folder it is in.

    TFDS downloads, checks the checksums and shows the progress; downloads are kept in ``data_dir``/downloads. Nothing
    is done where the data set is there already. The folder appears when it is complete, so an interrupted preparation
    leaves none, and the next one starts from what was downloaded. Raises DataError with the reason, and says so where
    the data set's own code needs TensorFlow.
    """
    from tensorflow_datasets.core import naming, registered
    from tensorflow_datasets.core.download import DownloadConfig

    folder = data_folder(data_dir)
    try:
        name, options = naming.parse_builder_name_kwargs(dataset)
        builder_cls = registered.imported_builder_cls(str(name))
    except registered.DatasetNotFoundError as error:
        raise DataError(f"dataset={dataset!r}: TFDS has no data set of that name") from error
    except ValueError as error:
        raise DataError(f"dataset={dataset!r}: not of the form name[/config][:version]") from error
    target = None
    try:
        with without_tensorflow(), _downloads_end_here():
            builder = _twin(builder_cls)(data_dir=str(folder), file_format="array_record", **options)
            target = builder.data_path
            builder.download_and_prepare(download_config=DownloadConfig(try_download_gcs=False))
    except Exception as error:
        if target is None or not target.exists():  # else another process has finished it meanwhile
            raise DataError(f"dataset={dataset!r} cannot be prepared in {str(folder)!r}: {_reason(error)}") from error
    return target


@contextmanager
def _downloads_end_here() -> Iterator[None]:
    """Downloads that are under way when the body ends stop: TFDS's threads go on, and the process waits for them."""
    from tensorflow_datasets.core.download import downloader

    ended, open_url = threading.Event(), downloader._open_url

    @contextmanager
    def stoppable(*args: Any, **kwargs: Any) -> Iterator[tuple[Any, Iterable[bytes]]]:
        with open_url(*args, **kwargs) as (response, blocks):
            yield response, _until(ended, blocks)

    with patched([downloader], "MAX_RETRIES", _RETRIES), patched([downloader], "_open_url", stoppable):
        try:
            yield
        finally:
            ended.set()


def _until(ended: threading.Event, blocks: Iterable[bytes]) -> Iterator[bytes]:
    for block in blocks:
        if ended.is_set():
            raise InterruptedError
        yield block


def _twin(builder_cls: Any) -> Any:
    """The same data set, with images that the builder makes as arrays encoded here: TFDS does it by TensorFlow."""

    from tensorflow_datasets.core import registered

    with registered.skip_registration():

        class Twin(builder_cls):
            name = builder_cls.name

            def _generate_examples(self, *args: Any, **kwargs: Any) -> Any:
                examples = super()._generate_examples(*args, **kwargs)
                return _encoded(examples, self.info.features) if isinstance(examples, Iterable) else examples

    Twin.__module__ = builder_cls.__module__  # where TFDS looks for checksums and metadata
    return Twin


def _encoded(examples: Iterable[tuple[Any, Any]], features: Any) -> Iterator[tuple[Any, Any]]:
    for key, example in examples:
        yield key, _encode(features, example)


def _encode(feature: Any, value: Any) -> Any:
    """``value`` with 8-bit arrays as PNG files; what TFDS would write as JPEG is left to it, for the same pixels."""
    from tensorflow_datasets.core import features

    if isinstance(feature, features.FeaturesDict) and isinstance(value, dict):
        return {key: _encode(feature[key], item) if key in feature else item for key, item in value.items()}
    if not isinstance(feature, features.Image) or not isinstance(value, np.ndarray):
        return value
    if feature.np_dtype != np.uint8 or feature.encoding_format == "jpeg":
        return value
    declared = feature.shape
    fits = value.ndim == 3 and all(n in (None, m) for n, m in zip(declared, value.shape, strict=True))
    if value.dtype != np.uint8 or not fits:
        raise ValueError(f"an image is {value.dtype} {list(value.shape)}, declared uint8 {list(declared)}")
    file = io.BytesIO()
    Image.fromarray(value[..., 0] if value.shape[2] == 1 else value).save(file, "PNG")
    return file.getvalue()


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:  # TFDS raises again with whole examples in the message
        error = error.__cause__
    reason = textwrap.shorten(str(error), 400) or type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name == "tensorflow":
        return f"its own code needs TensorFlow ({reason}): pip install 'maskdiff_jax[prepare]'"
    return reason
