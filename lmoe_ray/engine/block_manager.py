"""Which blocks of the key-value cache belong to whom, and which can be found again. Bookkeeping only, no tensors.

A block holds the keys and values of ``block_size`` consecutive tokens. Once full and computed it is
published under a digest of everything its contents depend on: the adapter, its tokens and all tokens
before them. A sequence that begins with the same tokens under the same adapter shares it. Nobody
writes to a full block, so sharing needs no copies::

    free --taken--> used --last user leaves, never published--> free
                    ^  |
               found|  +---last user leaves, published--> idle --needed, oldest first--> used by another
                    +--------------------------------------+

Source: hashed blocks as in vLLM's automatic prefix caching (Kwon et al. 2023, arXiv:2309.06180).
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict

from lmoe_ray.engine.sequence import Sequence


class BlockManager:
    """Owns ``num_blocks`` blocks; sequences hold references to them in their ``block_table``.

    Attributes:
        num_seen_tokens: tokens of all sequences admitted so far.
        num_hit_tokens: how many of these were in the cache already.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self.num_seen_tokens = self.num_hit_tokens = 0
        # Last in, first out, so that a small load keeps to a small part of the memory.
        self._free = list(reversed(range(num_blocks)))
        self._idle: OrderedDict[int, None] = OrderedDict()  # the first has been idle longest
        self._num_users = [0] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}

    @property
    def num_free(self) -> int:
        """Blocks that can be had now, those included that somebody might still find."""
        return len(self._free) + len(self._idle)

    def match(self, sequence: Sequence) -> list[int]:
        """The longest run of published blocks a waiting sequence begins with; takes no reference.

        Never all of its tokens: the next one is sampled from what the last one computes.
        """
        found: list[int] = []
        for index in range((sequence.num_known - 1) // self.block_size):
            block = self._block_of.get(self._digest(sequence, index))
            if block is None:
                break
            found.append(block)
        return found

    def can_admit(self, sequence: Sequence, num_kept: int) -> bool:
        """Whether there is room for all tokens of a waiting sequence that leaves ``num_kept`` blocks free."""
        found = self.match(sequence)
        num_missing = self._num_blocks_for(sequence.num_known) - len(found)
        num_woken = sum(block in self._idle for block in found)
        return num_missing + num_woken + num_kept <= self.num_free

    def admit(self, sequence: Sequence) -> None:
        """Give a waiting sequence the blocks :meth:`can_admit` found room for, and count what is cached."""
        assert not sequence.block_table, f"{sequence.request_id} holds blocks already. This is a bug."
        sequence.block_table = self.match(sequence)
        sequence.num_published = len(sequence.block_table)
        sequence.num_cached = sequence.num_published * self.block_size
        for block in sequence.block_table:
            self._idle.pop(block, None)
            self._num_users[block] += 1
        has_room = self.grow(sequence, sequence.num_known)
        assert has_room, f"{sequence.request_id} is admitted without room for it. This is a bug."
        self.num_seen_tokens += sequence.num_known
        self.num_hit_tokens += sequence.num_cached

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Make the block table long enough for ``num_tokens``; ``False``, and no change, if blocks are lacking."""
        num_missing = self._num_blocks_for(num_tokens) - len(sequence.block_table)
        if num_missing > self.num_free:
            return False
        for _ in range(num_missing):
            sequence.block_table.append(self._take())
        return True

    def publish(self, sequence: Sequence) -> None:
        """Let others find the blocks of a sequence that are full, computed and known.

        Constant time unless a block has filled since the last call. A block whose contents somebody
        else published first stays private.
        """
        num_full = min(sequence.num_cached, sequence.num_known) // self.block_size
        for index in range(sequence.num_published, num_full):
            digest, block = self._digest(sequence, index), sequence.block_table[index]
            if digest not in self._block_of:
                self._block_of[digest] = block
                self._digest_of[block] = digest
            sequence.num_published = index + 1

    def release(self, sequence: Sequence) -> None:
        """Take back all blocks of a sequence. Published ones can be found until they are needed."""
        # The end goes first: without the blocks before them, later ones can never be found.
        for block in reversed(sequence.block_table):
            self._num_users[block] -= 1
            if self._num_users[block]:
                continue
            if block in self._digest_of:
                self._idle[block] = None
            else:
                self._free.append(block)
        sequence.block_table = []
        sequence.num_cached = sequence.num_published = 0

    def _num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            del self._block_of[self._digest_of.pop(block)]
        self._num_users[block] = 1
        return block

    def _digest(self, sequence: Sequence, index: int) -> bytes:
        """Identity of a sequence's full block; kept on the sequence, whose tokens never change."""
        digests = sequence.block_digests
        while len(digests) <= index:
            # Python's own hash is seeded per process and made for tables, not for telling strangers apart.
            start = len(digests) * self.block_size
            ids = array("q", sequence.token_ids(start, start + self.block_size))
            before = digests[-1] if digests else _root(sequence.adapter_digest)
            digests.append(hashlib.blake2b(before + ids.tobytes(), digest_size=32).digest())
        return digests[index]


def _root(adapter_digest: str | None) -> bytes:
    """What the chain of an adapter's digests begins with, as long as one of them."""
    return hashlib.blake2b((adapter_digest or "base").encode(), digest_size=32).digest()
