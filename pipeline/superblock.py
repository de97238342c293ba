"""The head of an HDF5 file, and what is left in it by a writer that was killed."""

import os
import struct

from pipeline.errors import PipelineValueError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SIZE = 48  # bytes of it, of version 3 with addresses of 8 bytes
_HEAD = struct.Struct("<8sBBBBQQQQ")
_MASK = 0xFFFFFFFF


class Superblock:
    """The first 48 bytes of an HDF5 file of the format that others may read while it is written (version 3).

    HDF5 marks a file that is written to, and takes the mark away when it is closed. A writer that was killed leaves it,
    and nobody may write to the file any more. What it has written is whole all the same, since HDF5 writes what refers
    to something after what is referred to (single writer, multiple readers). It may only have got further than the
    head tells: what is allotted next would overwrite it.

    So the mark may be taken away if nobody writes any more, and the end of what is allotted set to the end of the
    file. HDF5's own tool does it so: `h5clear --status --increment=0`. See the HDF5 File Format Specification,
    version 3.0, II.A.

    Parameters
    ----------
    head
        The bytes.

    Attributes
    ----------
    is_open
        Whether somebody writes to the file, or was killed while doing so.
    end
        Up to where the file is allotted, in bytes.

    Raises
    ------
    PipelineValueError
        If it is the head of something else.

    >>> Superblock(b"GIF89a")
    Traceback (most recent call last):
    pipeline.errors.PipelineValueError: wanted an HDF5 file that may be read while it is written, there is another.
    """

    def __init__(self, head: bytes) -> None:
        is_ours = len(head) >= SIZE and head.startswith(SIGNATURE) and head[8:11] == b"\x03\x08\x08"
        if not is_ours or struct.unpack_from("<I", head, SIZE - 4)[0] != lookup3(head[: SIZE - 4]):
            raise PipelineValueError("wanted an HDF5 file that may be read while it is written, there is another.")
        self._fields = _HEAD.unpack_from(head)
        self.is_open, self.end = self._fields[4] != 0, self._fields[7]

    def closed(self, size: int) -> bytes:
        """Return the head of the same file of this size, of one that nobody writes to."""
        signature, version, offsets, lengths, _, base, extension, _, root = self._fields
        head = _HEAD.pack(signature, version, offsets, lengths, 0, base, extension, max(self.end, size), root)
        return head + struct.pack("<I", lookup3(head))


def close_abandoned(path: str | os.PathLike[str]) -> bool:
    """Make a file that was left by a writer that is no more one that can be written to again; tell whether it was.

    The caller knows that nobody writes to it.

    Raises
    ------
    PipelineValueError
        If it is no HDF5 file of this format.
    OSError
        If it cannot be read or written to.
    """
    with open(path, "rb") as file:
        superblock = Superblock(file.read(SIZE))
    if superblock.is_open:
        with open(path, "r+b", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            os.ftruncate(file.fileno(), max(size, superblock.end))
            os.pwrite(file.fileno(), superblock.closed(size), 0)
    return superblock.is_open


def lookup3(data: bytes) -> int:
    """Return the checksum of HDF5's metadata: `hashlittle` of Bob Jenkins' lookup3 (2006), from 0.

    >>> hex(lookup3(b"")), hex(lookup3(b"Four score and seven years ago"))
    ('0xdeadbeef', '0x17770551')
    """
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    parts = [data[i : i + 12].ljust(12, b"\0") for i in range(0, len(data), 12)]
    for i, (x, y, z) in enumerate(map(struct.Struct("<III").unpack, parts)):
        a, b, c = (a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK
        a, b, c = _mixed(a, b, c) if i < len(parts) - 1 else _finished(a, b, c)
    return c


def _mixed(a: int, b: int, c: int) -> tuple[int, int, int]:
    for turn in (4, 6, 8, 16, 19, 4):
        a, c = ((a - c) & _MASK) ^ _turned(c, turn), (c + b) & _MASK
        a, b, c = b, c, a
    return a, b, c


def _finished(a: int, b: int, c: int) -> tuple[int, int, int]:
    for turn in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _turned(b, turn)) & _MASK
        a, b, c = b, c, a
    return c, a, b


def _turned(value: int, n: int) -> int:
    return ((value << n) | (value >> (32 - n))) & _MASK
