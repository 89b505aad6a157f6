"""Checks of pages in a browser (Chromium), which is no Python package.

They are collected where MASKDIFF_BROWSER=1 asks for them:

    apt-get install -y --no-install-recommends chromium
    MASKDIFF_BROWSER=1 python -m pytest tests/browser
"""

import os

if os.environ.get("MASKDIFF_BROWSER") != "1":
    collect_ignore_glob = ["test_*.py"]
