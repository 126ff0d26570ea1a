"""Device memory for tests that have no device: blocks as bytes in a dictionary."""

from __future__ import annotations

import random

from longbow_quarrel import _core


class HostStore(_core.BlockStore):
    """Blocks of ``block_bytes[group]`` bytes; zeros until they are written."""

    def __init__(self, block_bytes: list[int], n_blocks: list[int]) -> None:
        super().__init__()
        self._block_bytes = block_bytes
        self._n_blocks = n_blocks
        self._blocks: dict[tuple[int, int], bytes] = {}
        self._random = random.Random(1)

    def block_bytes(self, group: int) -> int:
        return self._block_bytes[group]

    def read_block(self, group: int, block: int) -> bytes:
        assert 0 <= block < self._n_blocks[group]
        return self._blocks.get((group, block), bytes(self._block_bytes[group]))

    def write_block(self, group: int, block: int, data: bytes) -> None:
        assert 0 <= block < self._n_blocks[group]
        assert len(data) == self._block_bytes[group]
        self._blocks[group, block] = data

    def copy_block(self, group: int, source: int, target: int) -> None:
        self._blocks[group, target] = self.read_block(group, source)

    def randomise(self, group: int, block: int) -> None:
        self.write_block(group, block, self._random.randbytes(self._block_bytes[group]))
