import numpy as np
import pytest

from common.seeds import number, stream

# Numbers that NumPy's lists confuse: trailing zeros, and large ones, which take several words.
NAMES = [(0, "pairs"), (0, "level"), (0, "pairs", 0), (0, "pairs", 0, 0), (1, "pairs"), (0, "pairs", 1),
         (1, "pairs", 0), (2**32, "pairs"), (0, "pairs", 2**32), (0, "pairs", 12, 3),
         (0, "pairs", 1, 23), (0, "pairs 0")]


def test_numpy_confuses_lists():
    """What common.seeds is for."""
    assert np.random.default_rng([3, 5]).random() == np.random.default_rng([3, 5, 0]).random()
    assert np.random.default_rng([2**32]).random() == np.random.default_rng([0, 1]).random()


@pytest.mark.parametrize("make", [number, lambda *name: stream(*name).random(4).tobytes()])
def test_every_name_has_a_stream_of_its_own(make):
    made = [make(*name) for name in NAMES]
    assert len(set(made)) == len(NAMES)
    assert made == [make(*name) for name in NAMES]


def test_numpy_and_python_numbers_are_the_same_name():
    assert number(np.int64(3), "pairs", np.uint8(5)) == number(3, "pairs", 5) < 2**62


def test_streams_stay_what_they_are():
    """A resumed run must draw what its first half would have drawn, on any machine and version of this code."""
    assert number(0, "level", 7) == 1748050203380113886
    assert stream(0, "level", 7).integers(2**32) == 4162160507
