"""How the programs start and end: flags are read, user errors end in one line.

    if __name__ == '__main__':
        define_flags()
        command_line.run(main)

absl's own runner prints three lines for a mistyped flag and a traceback for a missing
file; people need the name of the flag or file and the way out.
"""

import contextlib
import os
import sys

from absl import app
from absl import flags


@contextlib.contextmanager
def tensorflow_in_silence():
    """Keeps off the screen what TensorFlow says while it is imported.

    Those lines obey no setting and would bury the one that says what is wrong.
    TF_CPP_MIN_LOG_LEVEL=0 shows them, and all else that it has to say.
    """
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


def run(main, stopped='stopped'):
    """Reads the flags, runs main(FLAGS) and exits with what it returns.

    A ValueError, OSError or wrong flag ends in one line on stderr and exit code 1.

    Args:
      main: function of absl's FLAGS; returns the exit code or None.
      stopped: what is said after Ctrl-C.
    """
    app.define_help_flags()
    try:
        rest = flags.FLAGS(sys.argv)[1:]
        if rest:
            raise ValueError(f'{rest[0]} is no flag: write --name=value')
        sys.exit(main(flags.FLAGS))
    except (ValueError, OSError, flags.Error) as error:
        name = os.path.basename(sys.argv[0])
        sys.exit(f'{name}: {" ".join(str(error).split())}')
    except KeyboardInterrupt:
        print(f'\n{stopped}', file=sys.stderr)
        sys.exit(130)
