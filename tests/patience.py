"""How long tests wait for what must come, compared with the usual."""

from __future__ import annotations

#: ``--pauses`` makes it longer, before the tests' modules are imported.
factor = 1.0
