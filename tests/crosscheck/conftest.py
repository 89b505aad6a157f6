"""Checks against PyTorch code, for an environment of their own (the extra ``crosscheck``).

They are collected where torch can be imported and MASKDIFF_CROSSCHECK=1 asks for them:

    pip install -e '.[dev,crosscheck]' && pip install --no-deps torch-fidelity
    MASKDIFF_CROSSCHECK=1 python -m pytest tests/crosscheck
"""

import importlib.util
import os

if os.environ.get("MASKDIFF_CROSSCHECK") != "1" or importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]
