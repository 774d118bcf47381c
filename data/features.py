"""Cached CNN features, so that hybrid training never touches pixels.

    <data_dir>/features/<stream>-<fingerprint>/<Class>/<clip>.npy    float16 [T, D]

The fingerprint covers the network's weights, the layer and how the clip was sampled.
After the array, a feature file ends in a stamp of the stored clip it was computed from.
Features of a clip that was written again, and files that were cut, do not end in the
clip's stamp and are computed again.
"""

import hashlib
import json
import os
import pathlib
import socket

import numpy as np
import tqdm

from data import batches
from data import clips as stored_clips

# An AVI file ends in the length of every picture, 16 bytes each.
STAMPED = 1 << 14


def directory(data_dir, stream, settings):
    """The folder of one stream's features.

    Args:
      data_dir: the preprocessed data set.
      stream: 'spatial' or 'motion'.
      settings: JSON-able dict of all that the features depend on but the clip.
    """
    text = json.dumps(settings, sort_keys=True)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
    return pathlib.Path(data_dir, 'features', f'{stream}-{fingerprint}')


def folder_of(settings, cnn):
    """The folder of a CNN's features, as `settings` and run.json name it."""
    return pathlib.Path(settings['data_dir'], 'features', cnn['features'])


def source_path(data_dir, stream, clip):
    """The stored file that a clip's features come from."""
    path = {'spatial': stored_clips.frames_path, 'motion': stored_clips.flow_path}
    return path[stream](data_dir, clip)


def stamp(source):
    """16 bytes that stand for a stored file: a hash of its size and its end."""
    with open(source, 'rb') as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - STAMPED))
        return hashlib.sha256(b'%d ' % size + file.read()).digest()[:16]


def is_fresh(path, source):
    """Whether the feature file is whole and of the stored clip as it is now."""
    try:
        with open(path, 'rb') as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16))
            return file.read() == stamp(source)
    except FileNotFoundError:
        return False


def write(path, features, source, stamped):
    """Writes float16 features and the clip's stamp, whole or not at all.

    Args:
      path: pathlib.Path of the feature file.
      features: float32 [T, D].
      source: path of the stored clip, for messages.
      stamped: of `stamp`, taken before the clip was read.

    Raises:
      ValueError: a feature is not finite, or too large for float16.
    """
    with np.errstate(over='ignore'):
        stored = features.astype(np.float16)
    if not np.isfinite(stored).all():
        raise ValueError(
            f'{source}: features are not finite in float16; check the CNN weights'
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # several machines may fill one folder
    temporary = path.with_name(f'{path.name}.{socket.gethostname()}-{os.getpid()}.tmp')
    try:
        with open(temporary, 'wb') as file:
            np.save(file, stored)
            file.write(stamped)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def missing(folder, clips, source):
    """The clips whose features are not there or out of date.

    Args:
      folder: from `directory`.
      clips: names 'Class/stem'.
      source: function clip -> path of the stored file the features come from.
    """
    return [c for c in clips if not is_fresh(folder / f'{c}.npy', source(c))]


def fill(folder, clips, source, read, extract, workers):
    """Computes what is missing in a feature folder.

    Args:
      folder: from `directory`.
      clips: names 'Class/stem'.
      source: function clip -> path of the stored file the features come from.
      read: function clip -> uint8 [T, H, W, C], the sampled frames or stacks.
      extract: function uint8 [T, H, W, C] -> float32 [T, D].
      workers: threads that read ahead.

    Returns:
      How many clips were computed.

    Raises:
      ValueError: a feature is not finite; or clips cannot be read, the others done.
    """
    todo, failed = missing(folder, clips, source), {}

    def attempt(clip):
        try:
            # before the clip is read: what is written meanwhile counts as changed
            return stamp(source(clip)), read(clip)
        except (ValueError, OSError) as error:
            failed[clip] = error

    found = batches.read_ahead(attempt, todo, workers)
    progress = tqdm.tqdm(todo, f'{folder.name} features', unit='clip', disable=None)
    for clip, stamped_images in zip(progress, found, strict=True):
        if stamped_images:
            stamped, images = stamped_images
            write(folder / f'{clip}.npy', extract(images), source(clip), stamped)
    for clip, error in sorted(failed.items()):
        print(f'{clip}  {error}')
    if failed:
        raise ValueError(
            f'{len(failed)} of {len(todo)} clips cannot be read, as listed above: run '
            'optical_flow.py --check, then make them again'
        )
    return len(todo)


def read(folder, clip):
    """Reads one clip's features, float16 [T, D], memory-mapped."""
    return np.load(folder / f'{clip}.npy', mmap_mode='r', allow_pickle=False)


def sequences(settings, cnns, rows):
    """What the hybrid or joint graph reads of some clips: features or pixels.

    Args:
      settings: the run's flags.
      cnns: dict stream -> {'features': folder name} as run.json keeps it.
      rows: the clips' rows of clips.csv.

    Returns:
      dict: each stream's array [B, T, ...] by its name, and lengths int32 [B].
    """
    batch = {}
    for stream, cnn in cnns.items():
        if settings['stage'] == 'hybrid':
            folder = folder_of(settings, cnn)
            steps = [read(folder, row['clip']) for row in rows]
        else:
            steps = [
                batches.sampled_clip(
                    settings['data_dir'],
                    stream,
                    row,
                    settings['num_steps'],
                    settings['stack_length'],
                )
                for row in rows
            ]
        batch[stream], batch['lengths'] = batches.pad(steps)
    return batch


def scales(settings, cnns, clips):
    """The standard deviation of each stream's features over the clips trained on."""
    folders = {stream: folder_of(settings, cnn) for stream, cnn in cnns.items()}
    found = {s: standard_deviation(f, clips) for s, f in folders.items()}
    check_scales(found)
    return found


def check_scales(scales):
    """Raises ValueError where a stream's features, of this scale, say nothing."""
    for stream, scale in scales.items():
        if scale == 0:
            raise ValueError(
                f'all {stream} features are equal, so that CNN is dead; give other '
                f'--{stream}_weights'
            )


def standard_deviation(folder, clips):
    """The standard deviation over all features of `clips`, in one streaming pass."""
    count, total, squares = 0, 0.0, 0.0
    for clip in clips:
        values = np.asarray(read(folder, clip), np.float64)
        count += values.size
        total += values.sum()
        squares += np.square(values).sum()
    return float(np.sqrt(max(squares / count - (total / count) ** 2, 0)))
