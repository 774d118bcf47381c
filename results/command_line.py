"""How the programs start and end: flags are read, user errors end in one line.

    if __name__ == '__main__':
        define_flags()
        command_line.run(main)

absl's own runner prints three lines for a mistyped flag and a traceback for a missing
file; people need the name of the flag or file and the way out.
"""

import contextlib
import errno
import io
import os
import re
import sys

from absl import app
from absl import flags

# Flags that name files and folders, besides those that end in _dir or _weights.
PATHS = (
    'clips',
    'compare',
    'data',
    'dir',
    'export',
    'list',
    'out',
    'overlay',
    'runs',
    'source',
    'video',
    'work',
)


@contextlib.contextmanager
def tensorflow_in_silence():
    """Has TensorFlow imported with oneDNN, and without what it says meanwhile.

    oneDNN's convolutions and products take a half to three quarters of the time of
    TensorFlow's own, which leaves oneDNN off on processors without AVX-512. They give
    the same bits in every run. TF_ENABLE_ONEDNN_OPTS=0 is TensorFlow without it.

    The lines obey no setting and would bury the one that says what is wrong.
    TF_CPP_MIN_LOG_LEVEL=0 shows them, and all else that TensorFlow has to say.
    """
    fill_closed()
    os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')
    if os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3') != '3':
        yield
        return
    screen, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # it writes past sys.stderr
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)
        os.close(nowhere)


def fill_closed():
    """Opens the null device for each closed standard stream.

    The next file opened would take its number, and TensorFlow would write messages
    into a checkpoint.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


class Screen(io.FileIO):
    """A standard stream that drops what nobody is there to read any more."""

    failed = False

    def write(self, data):
        """Writes bytes; no error where the pipe or terminal at the other end is gone,
        and any other error once, as Python writes again when it ends."""
        try:
            return super().write(data)
        except OSError as error:
            gone = error.errno in (errno.EPIPE, errno.EIO)
            if not gone and not self.failed:
                self.failed = True
                raise
            return len(data)


def make_printing_safe():
    """Printing ends no program: what the terminal's encoding does not have is escaped,
    and what is closed or has nobody to read it takes everything."""
    fill_closed()
    for name in ('stdout', 'stderr'):
        stream = getattr(sys, name)
        if stream is None:
            nowhere = open(os.devnull, 'w', encoding='utf-8', errors='replace')
            setattr(sys, name, nowhere)
        elif os.name == 'nt':  # its console takes no bytes
            stream.reconfigure(errors='backslashreplace')
        else:
            stream.flush()
            screen = io.BufferedWriter(Screen(stream.fileno(), 'w', closefd=False))
            lines = stream.line_buffering or stream.write_through  # python -u
            safe = io.TextIOWrapper(
                screen, stream.encoding, 'backslashreplace', line_buffering=lines
            )
            setattr(sys, name, safe)


def run(main, stopped='stopped'):
    """Reads the flags, runs main(FLAGS) and exits with what it returns.

    A ValueError, OSError or wrong flag ends in one line on stderr and exit code 1.

    Args:
      main: function of absl's FLAGS; returns the exit code or None.
      stopped: what is said after Ctrl-C.
    """
    make_printing_safe()
    app.define_help_flags()
    try:
        rest = flags.FLAGS(sys.argv)[1:]
        if rest:
            raise ValueError(f'unexpected argument {rest[0]}: write --name=value')
        expand_paths(flags.FLAGS)
        sys.exit(main(flags.FLAGS))
    except (ValueError, OSError, flags.Error) as error:
        name = os.path.basename(sys.argv[0])
        sys.exit(f'{name}: {" ".join(str(error).split())}')
    except KeyboardInterrupt:
        print(f'\n{stopped}', file=sys.stderr)
        sys.exit(130)


def expand_paths(values):
    """Replaces ~ and variables in every flag that names files.

    The shell does so only where a word begins with them: in --data_dir=~/clips it
    leaves the ~, which would become a folder of that name.

    Args:
      values: absl's FLAGS, parsed.

    Raises:
      ValueError: a variable is not set or a home is not known.
    """
    for name in values:
        if name in PATHS or name.endswith(('_dir', '_weights')):
            given = values[name].value
            if isinstance(given, str):
                values[name].value = _expanded(name, given)
            elif isinstance(given, list):
                values[name].value = [_expanded(name, path) for path in given]


def _expanded(name, path):
    if os.path.exists(path):  # somebody may have a folder named ~
        return path
    expanded = os.path.expanduser(os.path.expandvars(path))
    if os.path.exists(expanded):
        return expanded
    unknown = re.search(r'^~[^/]*|\$(\w+|\{[^}]*\})', expanded)
    if unknown:
        raise ValueError(
            f'--{name}={path}: {unknown[0]} is not known here: write the whole path'
        )
    return expanded
