"""Controls at equal parameters: an MLP as much wider as another arm's connections have parameters."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from streammix.lab.errors import LabError
from streammix.lab.experiment.plan import Case
from streammix.lab.sizes import count_parameters


def same_parameters(cases: Sequence[Case], matches: Mapping[str, str]) -> Iterator[Case]:
    """The cases of a group, those named in `matches` with the MLP width that gives them another arm's parameters.

    The width is an integer: half a hidden unit of every layer, 3/2 C layers parameters, may be left over.

    Raises:
        LabError: the other arm has several numbers of parameters, or fewer than the narrowest MLP leaves.
    """
    for case in cases:
        other = matches.get(case.arm)
        if other is None:
            yield case
            continue
        wanted = {count_parameters(one.config) for one in cases if one.arm == other}
        if len(wanted) > 1:
            raise LabError(f"{case.arm}: {other} has {sorted(wanted)} parameters by axis; accepted: one number")
        narrowest, next_one = (count_parameters(dataclasses.replace(case.config, mlp_width=width)) for width in (1, 2))
        width = 1 + round((wanted.pop() - narrowest) / (next_one - narrowest))
        if width < 1:
            raise LabError(f"{case.arm}: {other} has fewer parameters than this arm without an MLP")
        yield dataclasses.replace(case, config=dataclasses.replace(case.config, mlp_width=width))
