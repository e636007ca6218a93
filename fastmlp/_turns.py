"""Who reads or changes a model's parameters now, where several threads may, and Ctrl-C may come at any point."""

from __future__ import annotations

import os
import threading
import time


class Turn:
    """That of one thread, in a dictionary with those of others, in which they stand in the order in which they came.

    A lock would not do: an interrupt right after it was acquired leaves it acquired, since Python 3.14 in a `with`
    statement, too. A turn is known before it is taken, so it can be given back by whom it was never given to, in one
    call during which no signal is handled::

        turn = Turn(steps=True)
        try:
            turns[turn] = None
            if turn.comes(turns): ...
        finally:
            turns.pop(turn, None)
    """

    def __init__(self, steps: bool):
        self.steps, self._thread, self._process = steps, threading.get_ident(), os.getpid()

    @staticmethod
    def torn(turns: dict[Turn, None]) -> list[Turn]:
        """Those of a process that this one was forked off in the middle of a step."""
        return [turn for turn in list(turns) if turn.steps and turn._process != os.getpid()]

    def comes(self, turns: dict[Turn, None]) -> bool:
        """Wait for those who read, which is soon over; False where somebody is in the middle of a step."""
        if len(turns) == 1:  # nobody else
            return True
        pause = 2e-5
        while True:
            everybody = list(turns)
            earlier = everybody[: everybody.index(self)]
            if any(other.steps for other in earlier):
                return False
            # a thread that read while this process was forked off does not exist in it
            reading = {other._thread for other in earlier if other._process == self._process}
            if self._thread in reading:  # a signal's handler within it, for which it waits
                return not self.steps
            if not reading:
                return True
            time.sleep(pause)
            pause = min(2 * pause, 1e-3)
