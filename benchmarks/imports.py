"""What `import pipeline` takes, in a fresh interpreter."""

import subprocess
import sys
from statistics import median

CODE = "import time; began = time.perf_counter(); import pipeline; print(time.perf_counter() - began)"


def imports():
    """Seconds, in a process of its own."""
    seconds = [float(subprocess.check_output([sys.executable, "-c", CODE])) for _ in range(6)]
    return "import, seconds", median(seconds[1:]), 0.5, median(seconds[1:]) < 0.5
