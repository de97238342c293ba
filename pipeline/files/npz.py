"""Archives of named numpy arrays, without pickles."""

import zipfile
from pathlib import Path

import numpy

from pipeline.documents import Document
from pipeline.errors import PipelineError, PipelineValueError
from pipeline.files.groups import tables_of
from pipeline.files.table import Table


def read_npz(path: Path) -> tuple[list[Table], Document | None, Document]:
    """Read an archive of arrays: those of a folder in it that are equally long are a stream, single values are facts.

    Raises
    ------
    PipelineValueError
        If it is none, or an array in it is pickled: it names the file and the array.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     numpy.savez(Path(folder, "a.npz"), q=numpy.zeros(2), n=3)
    ...     tables, _, facts = read_npz(Path(folder, "a.npz"))
    >>> [column.name for column in tables[0].columns], facts
    (['q'], {'n': 3})
    """
    arrays = {}
    try:
        with numpy.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                arrays[name] = _array(path, archive, name), {}
    except PipelineError:
        raise
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError) as error:
        raise PipelineValueError(f"{path}: wanted an archive of numpy arrays: {error}") from None
    tables, facts = tables_of(arrays, str(path))
    return tables, None, {name: value.item() for name, value in facts.items()}


def _array(path: Path, archive: numpy.lib.npyio.NpzFile, name: str) -> numpy.ndarray:
    try:
        return archive[name]
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise PipelineValueError(f"{path}, {name}: wanted a plain array: {error}") from None
