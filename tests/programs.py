"""Calls train.py or evaluate.py with flags as a user gives them, in this process.

For tests that change the code a program runs; where a program is only used, a process
of its own shows more.
"""

import signal
import sys

import pytest
from absl import flags


def call(program, *words):
    """Runs a program's main with flags; returns what it returns.

    Args:
      program: the module train or evaluate.
      words: flags, such as '--stage=hybrid'.
    """
    before = set(flags.FLAGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [program.__name__])  # whose flags are the run's
        patch.setattr(signal, 'signal', lambda *_: None)  # pytest has its own handlers
        program.define_flags()
        try:
            flags.FLAGS([program.__name__, *map(str, words)])
            return program.main(flags.FLAGS)
        finally:
            for name in set(flags.FLAGS) - before:
                delattr(flags.FLAGS, name)
