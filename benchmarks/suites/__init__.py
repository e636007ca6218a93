"""Suites for airspeed velocity; see benchmarks/README.md. Everything is compiled, and validated, in `setup`."""

import os
import tempfile
from pathlib import Path

if os.environ.get("ASV_COMMIT"):  # each revision has its own compiled kernels, kept for its later benchmarks
    folder = Path(tempfile.gettempdir()) / "fastmlp-asv" / os.environ["ASV_COMMIT"]
    os.environ["FASTMLP_CACHE_DIR"] = str(folder)
