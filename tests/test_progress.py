"""Lines of progress: what is done, the pace, and the time left."""

import pytest
from talking_heads import progress
from talking_heads.progress import Progress


@pytest.mark.parametrize(
    "seconds, lines",
    [
        (0.25, ["40/100 clips, 4 a second, 0.2 min left", "80/100 clips, 4 a second, 0.1 min left"]),
        (3.0, ["4/100 clips, 3.0 s each, 4.8 min left", "8/100 clips, 3.0 s each, 4.6 min left"]),
    ],
)
def test_progress_shows_the_pace_and_the_time_left(monkeypatch, capsys, seconds, lines):
    """Every ten seconds, and at the end."""
    now = 1000.0
    monkeypatch.setattr(progress.time, "time", lambda: now)
    units = Progress("preparing", 100, "clips")
    for _ in range(100):
        now += seconds
        units.add(1)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [f"  preparing: {line}" for line in lines]
    assert printed[-1].startswith("  preparing: 100/100 clips, ") and printed[-1].endswith(", 0.0 min left")
    assert len(printed) == (3 if seconds < 1 else 25)
