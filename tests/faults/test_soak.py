"""A short run of ``benchmarks/soak.py``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_soak() -> None:
    """Load, kills, HUPs and slow clients at once, for some seconds.

    Only requests of killed workers are lost. Dispatcher and zygote have as much memory
    and as many descriptors as before.
    """
    line = [sys.executable, "-W", "error", str(SOAK), "--minutes", "0.1"]
    result = subprocess.run(line, capture_output=True, text=True, check=False)
    print(result.stdout)
    assert result.stderr == ""
    assert result.returncode == 0
    assert "\nlost: 0\n" in result.stdout
