"""How good a model is: held-out loss, image metrics, pictures and the report of a run."""

from maskdiff_jax.evaluate.frechet import Statistics as Statistics
from maskdiff_jax.evaluate.frechet import frechet as frechet
from maskdiff_jax.evaluate.frechet import merge as merge
from maskdiff_jax.evaluate.frechet import statistics as statistics
from maskdiff_jax.evaluate.grid import image_grid as image_grid
from maskdiff_jax.evaluate.grid import save_png as save_png
from maskdiff_jax.evaluate.heldout import level_edges as level_edges
from maskdiff_jax.evaluate.heldout import make_heldout as make_heldout
from maskdiff_jax.evaluate.judge import JUDGES as JUDGES
from maskdiff_jax.evaluate.judge import class_accuracy as class_accuracy
from maskdiff_jax.evaluate.likelihood import make_bits_per_dim as make_bits_per_dim
from maskdiff_jax.evaluate.likelihood import mean_bits_per_dim as mean_bits_per_dim
from maskdiff_jax.evaluate.nearest import nearest as nearest
from maskdiff_jax.evaluate.nearest import nearest_distance as nearest_distance
from maskdiff_jax.evaluate.pixels import pixel_frechet as pixel_frechet
from maskdiff_jax.evaluate.pixels import pixel_frechet_reference as pixel_frechet_reference
from maskdiff_jax.evaluate.pixels import pixel_statistics as pixel_statistics
from maskdiff_jax.evaluate.quality import quality as quality
from maskdiff_jax.evaluate.report import format_table as format_table
from maskdiff_jax.evaluate.report import make_report as make_report
from maskdiff_jax.evaluate.report import save_report as save_report
from maskdiff_jax.evaluate.report import validate as validate
from maskdiff_jax.evaluate.sampling import balanced_labels as balanced_labels
from maskdiff_jax.evaluate.sampling import make_generate as make_generate
