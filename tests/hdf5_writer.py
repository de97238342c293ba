"""A process that writes an HDF5 file as it is told: `with Writer(path) as writer: writer("create"); writer("frame", 1)`."""

import subprocess
import sys
from contextlib import ExitStack

import h5py
import numpy

SHAPE = 4, 5


def frame(value):
    """The frame that is written by this number."""
    return numpy.full(SHAPE, value, "u2") + numpy.arange(20, dtype="u2").reshape(SHAPE)


class Writer(ExitStack):
    """Drives the process; each call returns when the process has done it."""

    def __init__(self, path):
        super().__init__()
        command = [sys.executable, __file__, str(path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.enter_context(self._process)
        self.callback(self._process.stdin.close)

    def __call__(self, *words):
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        assert answer == "done", answer

    def tell(self, *words):
        """Tell without waiting."""
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()


class _File:
    def __init__(self, path):
        self.path, self.file, self.data = path, None, None

    def create(self, libver="latest"):
        self.file = h5py.File(self.path, "w", libver=libver)

    def append(self, libver="latest"):
        self.file = h5py.File(self.path, "a", libver=libver)
        self.data = self.file.get("entry/data/data")

    def dataset(self, size="1"):
        chunks, maxshape = (int(size), *SHAPE), (None, *SHAPE)
        self.data = self.file.create_dataset("entry/data/data", (0, *SHAPE), "u2", chunks=chunks, maxshape=maxshape)

    def swmr(self):
        self.file.swmr_mode = True

    def extend(self, n="1"):
        self.data.resize(len(self.data) + int(n), 0)

    def write(self, row, value):
        self.data[int(row)] = frame(int(value))

    def frame(self, value):
        self.extend()
        self.write(len(self.data) - 1, value)
        self.flush()

    def frames(self, first, after, seconds="0"):
        import time

        for value in range(int(first), int(after)):
            time.sleep(float(seconds))
            self.frame(value)

    def flush(self):
        self.data.flush()
        self.file.flush()

    def close(self):
        self.file.close()


if __name__ == "__main__":
    target = _File(sys.argv[1])
    for line in sys.stdin:
        word, *arguments = line.split()
        try:
            getattr(target, word)(*arguments)
            print("done", flush=True)
        except Exception as error:  # noqa: BLE001 - who drives it is told
            print(type(error).__name__, error, flush=True)
