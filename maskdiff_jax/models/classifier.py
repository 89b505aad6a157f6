"""A small convolutional classifier, whose inner features are trained on the data set itself."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from maskdiff_jax.models.extractor import Extractor, from_module

LARGEST = 64  # side up to which images are seen as they are
SMALLEST = 4  # side down to which maps are halved


def classifier(image_shape: tuple[int, int, int], classes: int, width: int = 32) -> Extractor:
    """A network on images [b, h, w, c] in [-1, 1]: pool [b, 4·width] and logits [b, classes].

    Four 3x3 convolutions of ``width``, 2, 2 and 2 times ``width`` features, each with a group norm and a ReLU, with
    maxima of 2x2 between them; the mean over all places; a layer of 4·width, which is pool; the classes. At width 32
    about 100,000 parameters. Images of more than 64 pixels a side are averaged down first. Raises ValueError for fewer
    than 2 classes or a width that is not a multiple of 4.
    """
    if classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got {classes}")
    if width < 4 or width % 4:
        raise ValueError(f"width must be a positive multiple of 4, got {width}")
    return from_module(Classifier(classes, width), image_shape, 4 * width)


class Classifier(nn.Module):
    """See `classifier`."""

    classes: int
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> dict[str, Float[Array, "b _"]]:
        factor = -(-max(x.shape[1:3]) // LARGEST)
        if factor > 1:
            x = nn.avg_pool(x, (factor, factor), (factor, factor))
        for i, features in enumerate((self.width, 2 * self.width, 2 * self.width, 2 * self.width)):
            if i and min(x.shape[1:3]) >= SMALLEST:
                x = nn.avg_pool(x, (2, 2), (2, 2))
            x = nn.Conv(features, (3, 3), use_bias=False, name=f"conv_{i}")(x)
            x = nn.relu(nn.GroupNorm(num_groups=4, name=f"norm_{i}")(x))
        pool = nn.relu(nn.Dense(4 * self.width, name="hidden")(jnp.mean(x, axis=(1, 2))))
        return {"pool": pool, "logits": nn.Dense(self.classes, name="out")(pool)}
