"""The tracer of `--cov`, and when it must not look on."""

import contextlib
import sys


@contextlib.contextmanager
def untraced():
    """Nothing that runs in this thread is traced: for compiling, which it slows by half; for the bytes that are
    allocated, among which its own tables would be; and for interrupts at any time, which may leave its lock taken."""
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracer)
