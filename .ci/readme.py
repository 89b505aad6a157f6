"""``readme.py NAME`` prints the fenced block under ``<!-- ci:NAME -->`` of README.md, so that CI runs what it says."""

import re
import sys
from pathlib import Path


def block(text: str, name: str) -> str:
    """The contents of the one fenced block that follows the marker. Raises ValueError unless there is exactly one."""
    found = re.findall(rf"^<!-- ci:{re.escape(name)} -->\n+```[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    if len(found) != 1:
        raise ValueError(f"README.md: {len(found)} fenced blocks under <!-- ci:{name} -->, expected 1")
    return found[0]


if __name__ == "__main__":
    readme = Path(__file__).parents[1] / "README.md"
    try:
        print(block(readme.read_text(encoding="utf-8"), sys.argv[1]), end="")
    except ValueError as error:
        sys.exit(str(error))
