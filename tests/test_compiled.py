"""Kernels: the same ones each time, one for each dtype, and none without numba."""

import logging
import subprocess
import sys

import numpy
import pytest

from pipeline.reductions import compiled as module
from pipeline.reductions.compiled import NO_NUMBA, compiled, readable

numba = pytest.importorskip("numba")


def total(values):
    found = 0
    for i in range(values.size):
        found += values[i]
    return found


def quotient(a, b):
    return a / b


def test_a_function_is_compiled_once_for_each_dtype_and_that_is_told(caplog):
    caplog.set_level(logging.INFO, module.__name__)
    kernel = compiled(total)

    sums = [kernel(readable(numpy.arange(4, dtype=dtype))) for dtype in ("u2", "u2", "f4", "u2")]

    assert kernel is compiled(total)
    assert sums == [6, 6, 6.0, 6]
    told = [record.getMessage() for record in caplog.records]
    assert [text.split(" in ")[0] for text in told] == ["compiled total(uint16)", "compiled total(float32)"]


def test_what_others_compile_is_not_told(caplog):
    caplog.set_level(logging.INFO, module.__name__)
    assert compiled(quotient)

    numba.njit(lambda x: x + 1)(1)

    assert not caplog.records


def of_all(kernel, rows):
    found = 0
    for i in range(len(rows)):
        found += kernel(rows[i])
    return found


def test_a_kernel_may_be_given_to_a_kernel():
    rows = readable(numpy.arange(6).reshape(2, 3))

    assert compiled(of_all)(compiled(total), rows) == of_all(total, rows) == 15


def test_without_numba_there_is_no_kernel(monkeypatch):
    assert compiled(total) is not None

    monkeypatch.setenv(NO_NUMBA, "1")

    assert compiled(total) is None


def test_numba_that_cannot_be_imported_is_no_numba():
    code = (
        "import sys; sys.modules['numba'] = None; "
        "from pipeline.reductions.compiled import compiled; print(compiled(lambda: 0))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert (done.stdout.strip(), done.stderr) == ("None", "")


def test_numba_is_not_imported_with_the_package():
    code = "import sys, pipeline, pipeline.config, pipeline.reductions; print('numba' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_a_division_by_zero_is_as_in_numpy():
    kernel = compiled(quotient)

    assert kernel(1.0, 0.0) == numpy.inf
    assert numpy.isnan(kernel(0.0, 0.0))


@pytest.mark.parametrize(
    "dtype", ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8", ">u2", ">f4", "f2", "g"]
)
@pytest.mark.parametrize("cut", [slice(None), slice(None, None, 2)])
def test_any_array_of_numbers_is_readable_by_a_kernel_and_stays_as_it_is(dtype, cut):
    array = (numpy.arange(6) % 2).astype(dtype).reshape(3, 2)[:, ::-1] if cut.step else numpy.ones((3, 2), dtype)
    before = array.copy()

    found = readable(array)

    assert compiled(total)(found.ravel()) == before.astype(float).sum()
    assert found.shape == array.shape
    assert (found.flags.c_contiguous, found.flags.writeable, array.flags.writeable) == (True, False, True)
    assert (array == before).all()


def test_what_a_kernel_can_read_is_not_copied():
    frame = numpy.ones((2, 3), "u2")

    assert numpy.shares_memory(readable(frame), frame)
