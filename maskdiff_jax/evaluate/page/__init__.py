"""The report of a run as one self-contained HTML file."""

from maskdiff_jax.evaluate.page.write import write_page as write_page
