"""What a mapping of a virtual dataset takes of an array."""

from typing import Any, NamedTuple

ENDLESS = 2**63


class Slab(NamedTuple):
    """What a mapping takes of an array, by axis: as HDF5 says it."""

    starts: tuple[int, ...]
    strides: tuple[int, ...]
    counts: tuple[int, ...]
    blocks: tuple[int, ...]

    @classmethod
    def of(cls, space: Any) -> "Slab":
        """Return what is selected of a dataspace; of what is irregular, all between its bounds."""
        import h5py

        ones = (1,) * len(space.shape)
        kind = space.get_select_type()
        if kind == h5py.h5s.SEL_ALL:
            return cls((0,) * len(ones), ones, space.shape, ones)
        if kind == h5py.h5s.SEL_HYPERSLABS and space.is_regular_hyperslab():
            starts, strides, counts, blocks = space.get_regular_hyperslab()
            strides = tuple(map(max, strides, blocks))  # of one block, it says nothing
            return cls(starts, strides, counts, blocks)
        starts, ends = space.get_select_bounds()
        return cls(starts, ones, ones, tuple(end - start + 1 for start, end in zip(starts, ends, strict=True)))

    @property
    def start(self) -> int:
        """The first row."""
        return self.starts[0]

    @property
    def n_rows(self) -> int:
        """How many rows."""
        return self.counts[0] * self.blocks[0]

    @property
    def ends(self) -> tuple[int, ...]:
        """What follows the last, by axis."""
        axes = zip(*self, strict=True)
        return tuple(start + (count - 1) * stride + block for start, stride, count, block in axes)

    def block(self, i: int) -> "Slab":
        """Return the i-th block of rows alone."""
        start = self.start + i * self.strides[0]
        return self._replace(starts=(start, *self.starts[1:]), counts=(1, *self.counts[1:]))

    def at_zero(self) -> "Slab":
        """Return as much, from the first row on."""
        return self._replace(starts=(0,) * len(self.starts))

    def n_before(self, row: int) -> int:
        """Return how many of its rows are before this one."""
        n_blocks, rest = divmod(max(0, row - self.start), self.strides[0])
        return min(self.n_rows, n_blocks * self.blocks[0] + min(rest, self.blocks[0]))

    def row(self, n: int) -> int:
        """Return its n-th row."""
        n_blocks, rest = divmod(n, self.blocks[0])
        return self.start + n_blocks * self.strides[0] + rest


def rows_there(rows: Slab, of: Slab, there: tuple[int, ...]) -> int:
    """Return up to which row of a virtual dataset a source goes.

    Parameters
    ----------
    rows
        Those of the virtual dataset that are of the source.
    of
        What they are of it.
    there
        The shape of the source.

    >>> rows_there(Slab((3,), (4,), (1,), (4,)), Slab((0,), (4,), (1,), (4,)), (2,))
    5
    """
    if len(there) != len(of.starts):
        return rows.start
    if max(*rows.counts, *of.counts) >= ENDLESS:  # how far it goes says HDF5
        return ENDLESS
    if any(end > n for end, n in zip(of.ends[1:], there[1:], strict=True)):
        return rows.start
    if of.ends[0] <= there[0]:
        return ENDLESS
    return rows.row(of.n_before(there[0])) if rows.n_rows == of.n_rows else rows.start
