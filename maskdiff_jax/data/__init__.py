"""Data: random-access sources, augmentation, and the stream of batches. No TensorFlow."""

from maskdiff_jax.data.augment import Augment as Augment
from maskdiff_jax.data.augment import compose as compose
from maskdiff_jax.data.augment import crop, flip, none, standard
from maskdiff_jax.data.augment import for_heldout as for_heldout
from maskdiff_jax.data.canvas import canvas
from maskdiff_jax.data.consistency import consistency
from maskdiff_jax.data.controls import CONTROL_UNITS as CONTROL_UNITS
from maskdiff_jax.data.controls import conditions as conditions
from maskdiff_jax.data.controls import control_names as control_names
from maskdiff_jax.data.controls import controls_of as controls_of
from maskdiff_jax.data.controls import originals as originals
from maskdiff_jax.data.controls import recorded as recorded
from maskdiff_jax.data.crops import local_crop, low_resolution, random_crop, resize_centre
from maskdiff_jax.data.device import Feed as Feed
from maskdiff_jax.data.device import ToDevice as ToDevice
from maskdiff_jax.data.device import feed as feed
from maskdiff_jax.data.device import ingest as ingest
from maskdiff_jax.data.device import on_device as on_device
from maskdiff_jax.data.digits import digits
from maskdiff_jax.data.folder import folder
from maskdiff_jax.data.heldout import held_out as held_out
from maskdiff_jax.data.latents import latents
from maskdiff_jax.data.pipeline import Batches as Batches
from maskdiff_jax.data.pixels import to_float as to_float
from maskdiff_jax.data.pixels import to_uint8 as to_uint8
from maskdiff_jax.data.prepare import prepare
from maskdiff_jax.data.source import ArraySource as ArraySource
from maskdiff_jax.data.source import DataError as DataError
from maskdiff_jax.data.source import Dataset as Dataset
from maskdiff_jax.data.source import Source as Source
from maskdiff_jax.data.source import embeddings as embeddings
from maskdiff_jax.data.swissroll import swissroll
from maskdiff_jax.data.tar import tar
from maskdiff_jax.data.tfds import tfds

DATASETS = {
    "consistency": consistency,
    "digits": digits,
    "folder": folder,
    "latents": latents,
    "swissroll": swissroll,
    "tar": tar,
    "tfds": tfds,
}
PREPARERS = {"tfds": prepare}  # of the data sets that can be made ready: options of the data set -> its folder
AUGMENTS = {
    "none": none,
    "flip": flip,
    "crop": crop,
    "standard": standard,
    "resize_centre": resize_centre,
    "random_crop": random_crop,
    "local_crop": local_crop,
    "low_resolution": low_resolution,
    "canvas": canvas,
}
