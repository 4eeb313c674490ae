"""The player's clock."""

import pytest

from echox.evaluation.latency.playback import Playback, play


def test_a_player_that_is_always_fed_never_stalls():
    assert play([1.0, 1.2, 1.9], [0.5, 0.5, 0.5]) == Playback(0, 0.0, 2.5)


def test_a_late_chunk_is_an_underrun_once():
    found = play([1.0, 2.0, 2.1], [0.5, 0.5, 0.5])
    assert (found.underruns, found.stalled_s, found.ended_s) == (1, pytest.approx(0.5), pytest.approx(3.0))


def test_a_gap_within_the_tolerance_is_none():
    assert play([0.0, 0.51], [0.5, 0.5], tolerance_s=0.02).underruns == 0
    assert play([0.0, 0.51], [0.5, 0.5]).underruns == 1


def test_nothing_played():
    assert play([], []) == Playback(0, 0.0, 0.0)


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="duration for each"):
        play([0.0], [])
    with pytest.raises(ValueError, match="never fall"):
        play([1.0, 0.5], [0.1, 0.1])
