"""Cached CNN features, so that hybrid training never touches pixels.

    <data_dir>/features/<stream>-<fingerprint>/<Class>/<clip>.npy    float16 [T, D]

The fingerprint covers the network's weights, the layer and how the clip was sampled.
A feature file carries the modification time of the stored clip it was computed from:
a clip that was written again has another one, and its features are computed again.
"""

import hashlib
import json
import os
import pathlib
import tempfile

import numpy as np
import tqdm

from data import batches


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


def is_fresh(path, source):
    """Whether the feature file exists and belongs to the stored clip as it is now."""
    try:
        return os.stat(path).st_mtime_ns == os.stat(source).st_mtime_ns
    except FileNotFoundError:
        return False


def write(path, features, source, stamp):
    """Writes float16 features whole or not at all, stamped with the clip's time.

    Args:
      path: pathlib.Path of the feature file.
      features: float32 [T, D].
      source: path of the stored clip, for messages.
      stamp: modification time the clip had before it was read, in nanoseconds.

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
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix='.tmp')
    try:
        with os.fdopen(handle, 'wb') as file:
            np.save(file, stored)
        os.utime(temporary, ns=(stamp, stamp))
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


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
    """
    missing = [c for c in clips if not is_fresh(folder / f'{c}.npy', source(c))]
    # a clip that is written again while it is read must count as changed
    stamps = [os.stat(source(clip)).st_mtime_ns for clip in missing]
    images = batches.read_ahead(read, missing, workers)
    progress = tqdm.tqdm(missing, f'{folder.name} features', unit='clip', disable=None)
    for clip, stamp, clip_images in zip(progress, stamps, images, strict=True):
        write(folder / f'{clip}.npy', extract(clip_images), source(clip), stamp)
    return len(missing)


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
            folder = pathlib.Path(settings['data_dir'], 'features', cnn['features'])
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
    folders = {
        stream: pathlib.Path(settings['data_dir'], 'features', cnn['features'])
        for stream, cnn in cnns.items()
    }
    found = {s: standard_deviation(f, clips) for s, f in folders.items()}
    for stream, scale in found.items():
        if scale == 0:
            raise ValueError(
                f'{folders[stream]}: all features are equal, so the {stream} CNN is '
                f'dead; give other --{stream}_weights'
            )
    return found


def standard_deviation(folder, clips):
    """The standard deviation over all features of `clips`, in one streaming pass."""
    count, total, squares = 0, 0.0, 0.0
    for clip in clips:
        values = np.asarray(read(folder, clip), np.float64)
        count += values.size
        total += values.sum()
        squares += np.square(values).sum()
    return float(np.sqrt(max(squares / count - (total / count) ** 2, 0)))
