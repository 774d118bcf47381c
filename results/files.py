"""Files of results, which appear whole or not at all.

with files.whole('runs/hybrid/evaluation.json') as file:
    json.dump(result, file)
"""

import contextlib
import os
import pathlib
import socket


@contextlib.contextmanager
def whole(path, mode='w', **options):
    """Opens a file that gets its name when it is complete.

    Args:
      path: of the file, which is replaced where it exists.
      mode, options: as of `open`.

    Raises:
      OSError: it cannot be written; names it. What was there before is kept.
    """
    path = pathlib.Path(path)
    # machines may share a folder, and so the number of a process
    temporary = path.with_name(f'.{path.name}.{socket.gethostname()}-{os.getpid()}')
    try:
        with open(temporary, mode, **options) as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
