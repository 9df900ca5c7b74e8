"""Turns, budgets and ratios."""

from streammix.bench.timing import Timing, interleaved


def test_takes_turns(monkeypatch):
    monkeypatch.setattr("streammix.bench.timing.SAMPLE_SECONDS", 0)
    order: list[str] = []
    timings = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, turns=3)
    assert "".join(order) == "ab" + "ab" + 2 * "aabb"  # once each, then three turns, the last two with a call before
    assert [len(t.samples) for t in timings.values()] == [3, 3]


def test_short_calls_are_repeated_in_a_sample(monkeypatch):
    calls = _clock(monkeypatch, {"short": 1e-4})
    (timing,) = interleaved(calls, turns=2).values()
    assert timing.median == 1e-4 or abs(timing.median - 1e-4) < 1e-9
    assert calls["short"].count >= 1 + 2 * 20


def test_a_slow_contender_sits_out_and_shares_its_turns(monkeypatch):
    calls = _clock(monkeypatch, {"fast": 0.01, "slow": 0.25, "slower": 3.0})
    timings = interleaved(calls, turns=15, budget=1.0)
    taken = {name: [turn for turn, s in enumerate(t.samples) if s is not None] for name, t in timings.items()}
    assert taken["fast"] == list(range(15))
    assert taken["slow"] == [0, 4, 8, 12]
    assert taken["slower"] == taken["slow"]  # over its budget, but three samples are the least
    assert calls["slow"].count == 1 + 4 + 3
    assert calls["slower"].count == 1 + 4  # too slow to be called once more each time
    assert abs(timings["slower"].over(timings["slow"]) - 12) < 1e-6
    assert abs(timings["slow"].minus(timings["fast"]) - 0.24) < 1e-6


def test_ratios_are_taken_turn_by_turn():
    """The machine got ten times slower half way: the ratio is still two. A turn that was sat out does not count."""
    assert Timing((2.0, 20.0, 20.0)).over(Timing((1.0, 10.0, 10.0))) == 2.0
    assert Timing((2.0, None, 20.0)).over(Timing((1.0, 50.0, 10.0))) == 2.0
    assert Timing((3.0, None, 30.0)).minus(Timing((1.0, 50.0, 10.0))) == 11.0
    assert Timing((1.0, 3.0, None, 100.0)).median == 3.0


class _Call:
    """Takes `seconds` of a clock that only calls move."""

    def __init__(self, seconds: float, clock: list[float]) -> None:
        self.seconds, self.clock, self.count = seconds, clock, 0

    def __call__(self) -> None:
        self.clock[0] += self.seconds
        self.count += 1


def _clock(monkeypatch, seconds: dict[str, float]) -> dict[str, _Call]:
    clock = [0.0]
    monkeypatch.setattr("streammix.bench.timing.time.perf_counter", lambda: clock[0])
    return {name: _Call(s, clock) for name, s in seconds.items()}
