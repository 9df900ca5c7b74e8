import random

from .permutations import Permutations


class PermutationMix(Permutations):
    r"""Mixtures of six permutations: the identity, two swaps, two shifts, a random one (JPmHC, arXiv 2602.18308).

    For n = 4 the source lists (0,1,2,3), (1,0,2,3), (0,1,3,2), (1,2,3,0), (3,0,1,2) and one drawn with seed 42. It
    names no generator for the draw (here: Python's, drawn again if it repeats one of the five) and no other n (here:
    the swaps of the first and of the last two streams, and the shifts by one, of any n). Six logits, started as
    `Permutations`.

    Args:
        streams: n >= 3; with fewer there are no six permutations.

    Raises:
        ValueError: fewer than 3 streams.
    """

    def __init__(self, streams: int) -> None:
        if isinstance(streams, bool) or not isinstance(streams, int) or streams < 3:
            raise ValueError(f"streams: got {streams!r}; PermutationMix accepts integers >= 3")
        super().__init__(streams, subset=_six(streams))

    def extra_repr(self) -> str:
        return f"streams={self.streams}"


def _six(n: int) -> list[tuple[int, ...]]:
    one = tuple(range(n))
    fixed = [one, (1, 0, *one[2:]), (*one[:-2], n - 1, n - 2), (*one[1:], 0), (n - 1, *one[:-1])]
    rng = random.Random(42)
    drawn = one
    while drawn in fixed:
        drawn = tuple(rng.sample(range(n), n))
    return [*fixed, drawn]
