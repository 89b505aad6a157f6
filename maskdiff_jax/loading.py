"""A trained network in one call: ``maskdiff_jax.load(folder).sample(labels=[3, 7])``."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import jax
import numpy as np

from maskdiff_jax.build import Experiment
from maskdiff_jax.captions import prompts
from maskdiff_jax.data import to_uint8
from maskdiff_jax.inference import condition, generator, labels_for, with_settings
from maskdiff_jax.sources import use
from maskdiff_jax.types import Key, Params


class Loaded:
    """A trained network that draws images; ``experiment`` is what its config builds, ``params`` are its averages."""

    def __init__(self, experiment: Experiment, params: Params, step: int | None):
        self.experiment, self.params, self.step = experiment, params, step
        self._generator = lru_cache(maxsize=8)(self._make_generator)  # the programs of the last settings

    def sample(
        self,
        num: int | None = None,
        labels: Sequence[int] | None = None,
        *,
        captions: Sequence[str] = (),
        guidance: float | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        controls: Mapping[str, float] | None = None,
        key: int | Key = 0,
    ) -> np.ndarray:
        """Images, uint8 [num, h, w, c], 0 to 255.

        The same arguments give the same images, and image i is the same whatever ``num``. Every setting of the sampler
        (guidance, steps, sampler) and every power of two of images is compiled once.

        Args:
          num: how many; by default one for each of ``labels``, else of ``captions``, or `config.sample.num`.
          labels: class numbers, repeated in turn until they are ``num``; by default 0, 1, 2, … in turn.
          captions: texts, in turn, embedded by the encoder of the run; by default those of held-out images.
          guidance: strength of the guidance, 1 is none; steps, sampler: by default the config's, as ``guidance`` is.
          controls: values of the network's controls, in the units in which they are recorded.
          key: a seed, or one key of `jax.random`.

        Raises ConfigError for settings, labels, captions or controls that the network does not know.
        """
        num = num or len(captions if labels is None else labels) or self.experiment.config.sample.num
        chosen = labels_for(self.experiment, None if labels is None else [str(label) for label in labels], num)
        cond = condition(self.experiment, chosen, num, controls)
        if captions:
            cond = cond._replace(**prompts(self.experiment.dataset, self.experiment.config.encode.text, captions, num))
        size = min(1 << (num - 1).bit_length(), self.experiment.config.evaluate.batch)
        generate = self._generator(steps, guidance, sampler, size)
        return to_uint8(generate(self.params, num, cond, _seed(key)))

    def _make_generator(self, steps: int | None, guidance: float | None, sampler: str | None, size: int):
        settings = with_settings(self.experiment.config.sample, steps, guidance, sampler)
        return generator(self.experiment, settings, size)


def load(path: str | Path, checkpoint: str = "newest", vae: str | Path = "") -> Loaded:
    """The network of a run, of an export, or of others.

    Args:
      path: a run's workdir; a file or folder that ``--mode=export`` wrote; a folder of diffusers' ``DiTPipeline`` or
        ``DiTTransformer2DModel``; a checkpoint of the DiT's authors (.pt or .safetensors). PyTorch is not needed.
      checkpoint: of a workdir: newest, best, or the number of a step.
      vae: the folder of the AutoencoderKL that decodes latents, where it is not the one that the run was trained with,
        or that stands in the pipeline.

    An exported network does not need the data that it was trained on, unless they are latents; one of others needs
    none, and without a scheduler beside it is taken to be of the paper's table (1000 steps of linear betas, the noise
    predicted). Raises ConfigError or CheckpointError, in one line, for a path that is none of these, and DataError
    where data are needed and missing.
    """
    return Loaded(*use(Path(path), checkpoint, str(vae)))


def _seed(key: int | Key) -> int:
    return int(key) if isinstance(key, int | np.integer) else int(jax.random.bits(key, dtype="uint32"))
