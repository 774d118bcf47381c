"""Runs optical_flow.py as a program of its own, with a fault in it."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The workers run its top level as well.
DRIVER = """
import os, signal
{fault}
import optical_flow
from results import command_line
if __name__ == '__main__':
    optical_flow.define_flags()
    command_line.run(optical_flow.main)
"""


def run(tmp_path, fault, *words, **options):
    """Runs it with the lines `fault` before its import; gives the finished process."""
    script = tmp_path / 'driver.py'
    script.write_text(DRIVER.format(fault=fault))
    return subprocess.run(
        [sys.executable, str(script), *words],
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OPENCV_LOG_LEVEL': 'OFF'},
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )
