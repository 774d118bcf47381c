"""What preprocessed clips depend on: a fingerprint, and a file that says it in words.

    fingerprint = settings.fingerprint(words)
    settings.write(data_dir, words)

`words` is a dict of every number and method that a clip's files depend on, nested at
will; optical_flow.settings_of collects it. Clips carry the fingerprint in clips.csv,
and <data_dir>/settings/<fingerprint>.json has the words behind it. The versions of the
libraries are told there too, but are not part of the fingerprint: a new version of
OpenCV that computes the same should not make a folder useless.
"""

import hashlib
import json
import os

import cv2
import numpy as np

DIGITS = 12


def fingerprint(words):
    """The first hexadecimal digits of a hash of `words`, whatever the order of keys."""
    text = json.dumps(words, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def write(data_dir, words):
    """Writes what a folder's clips depend on; call it while the folder is locked.

    Versions of the libraries are added to those of earlier runs.
    """
    libraries = {'opencv': cv2.__version__, 'numpy': np.__version__}
    path = _path(data_dir, fingerprint(words))
    versions = (_read(path) or {}).get('libraries', [])
    if libraries in versions:
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = path + '.new'
    with open(temporary, 'w') as file:
        content = {'settings': words, 'libraries': [*versions, libraries]}
        json.dump(content, file, indent=2)
        file.write('\n')
    os.replace(temporary, path)


def difference(data_dir, known, words):
    """What differs from the settings of clips that are there, in one line.

    Args:
      data_dir: folder of preprocessed clips.
      known: fingerprint of those clips.
      words: the settings of now.

    Returns:
      str such as 'flow.winsize was 15, is 21'; '' where the file says nothing.
    """
    stored = _read(_path(data_dir, known)) or {}
    before, now = _flat(stored.get('settings', {})), _flat(words)
    if before.get('flow.algorithm') != now.get('flow.algorithm'):
        # the parameters of another algorithm would only be a long list
        names = before.keys() & now.keys()
    else:
        names = before.keys() | now.keys()
    return ', '.join(
        f'{name} was {before.get(name, "not there")}, is {now.get(name, "not there")}'
        for name in sorted(names)
        if before and before.get(name) != now.get(name)
    )


def _path(data_dir, known):
    return os.path.join(data_dir, 'settings', f'{known}.json')


def _read(path):
    """The content of a settings file; None where it is not there or was cut short."""
    try:
        with open(path) as file:
            return json.load(file)
    except (FileNotFoundError, ValueError):
        return None


def _flat(words, prefix=''):
    """Nested dicts as one, its keys joined by dots."""
    flat = {}
    for name, value in words.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f'{prefix}{name}.'))
        else:
            flat[prefix + name] = value
    return flat
