"""List the shelf: `python -m pipeline.reductions`, or `... markdown` for the table of the README."""

import sys

from pipeline.reductions.shelf import markdown, text

if __name__ == "__main__":
    print(markdown() if "markdown" in sys.argv[1:] else text())
