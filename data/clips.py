"""Preprocessed clips on disk: how frames and optical flow are stored and read back.

    frames = clips.read_frames(data_dir, 'Archery/v_Archery_g01_c01', steps=[0, 8, 16])
    stacks = clips.read_stacks(data_dir, 'Archery/v_Archery_g01_c01', [0, 40], 10)

`optical_flow.py` writes this format, everything else reads it; data/README.md is the
contract. The T frames of a clip are JPEG images in resized/<Class>/<clip>.zip, the T-1
fields of flow between them PNG images (lossless, grey, x left of y) in
optical-flow/<Class>/<clip>.zip; what is known about each clip is in clips.csv.
"""

import csv
import itertools
import os

import cv2
import numpy as np

from data import archive

FRAME_SIZE = 224
# Pixels a frame that reach the end of the scale. 0.4 % of components exceed 10 and
# 0.004 % exceed 20, so 20 cuts nothing that matters and resolves 0.16 pixels.
FLOW_BOUND = 20.0
FLOW_ZERO = 128
FRAMES, FLOW = '.jpg', '.png'  # endings of the images in a clip's two files
# Nearer to the frames than OpenCV's Motion JPEG, by 1 dB, and smaller.
FRAMES_CODEC = (
    *(cv2.IMWRITE_JPEG_QUALITY, 93),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420),
)
# Of the lossless forms of OpenCV that are written as fast as FFV1 was, the quickest to
# read: each row as its difference from the row above, deflated at level 2.
FLOW_CODEC = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 2),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP),
)
READ_AHEAD = 16  # consecutive images that are read at once, some 200 KB
COLUMNS = (
    'clip',
    'source',
    'frames',
    'header_frames',
    'width',
    'height',
    'fps',
    'flow',
    'bound',
    'size',
    'settings',
    'status',
    'error',
)
INT_COLUMNS = ('frames', 'header_frames', 'width', 'height', 'size')
FLOAT_COLUMNS = ('fps', 'bound')
# File names need not be UTF-8; this keeps their bytes.
TEXT = {'encoding': 'utf-8', 'errors': 'surrogateescape'}


def quantize_flow(flow, bound=FLOW_BOUND):
    """Flow as it is stored: round(v * 127 / bound) + 128, clipped to 1..255.

    Zero flow is exactly 128, and 256 - x is exactly the opposite motion.

    Args:
      flow: float32 [H, W, 2], x and y in pixels a frame.
      bound: pixels a frame that become 255 (and 1 in the other direction).

    Returns:
      uint8 [H, W, 2].

    Raises:
      ValueError: a value is not finite.
    """
    if not np.isfinite(flow).all():
        raise ValueError('the flow has values that are not finite')
    scaled = np.rint(flow * (127 / bound)) + FLOW_ZERO
    return np.clip(scaled, 1, 255).astype(np.uint8)


def frames_path(data_dir, clip):
    """Path of the frames of `clip`, 'Class/stem'; ValueError if it is no such name."""
    return _path(data_dir, 'resized', clip)


def flow_path(data_dir, clip):
    """Path of the flow of `clip`, 'Class/stem'; ValueError if it is no such name."""
    return _path(data_dir, 'optical-flow', clip)


def _path(data_dir, folder, clip):
    parts = clip.split('/')
    if len(parts) != 2 or not {'', '.', '..'}.isdisjoint(parts) or '\0' in clip:
        raise ValueError(f'clip {clip!r} is not a name of the form Class/clip')
    return os.path.join(data_dir, folder, parts[0], parts[1] + '.zip')


def frames_writer(path):
    """Begins the file of a clip's frames; append(frame) takes uint8 [H, W, 3], BGR."""
    return archive.Writer(path, FRAMES, _encode_frame)


def flow_writer(path):
    """Begins the file of a clip's flow; append(field) takes uint8 [H, W, 2]."""
    return archive.Writer(path, FLOW, _encode_field)


def _encode_frame(frame):
    return _encoded(FRAMES, frame, FRAMES_CODEC)


def _encode_field(field):
    image = np.concatenate([field[:, :, 0], field[:, :, 1]], axis=1)
    return _encoded(FLOW, image, FLOW_CODEC)


def _encoded(ending, image, codec):
    whole, data = cv2.imencode(ending, image, codec)
    if not whole:
        raise ValueError(f'OpenCV cannot encode uint8 {image.shape} as {ending}')
    return data


def _decode_frame(data):
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def _decode_field(data):
    """The planes x and y, uint8 [2, H, W], of an encoded field."""
    image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    if image is None or image.shape[1] % 2:
        return None
    return image.reshape(len(image), 2, -1).swapaxes(0, 1)


def as_stored(frames):
    """Frames as they are read from a stored clip of these frames.

    Args:
      frames: list of T frames, uint8 [H, W, 3], BGR.

    Returns:
      uint8 [T, H, W, 3], BGR.
    """
    return np.stack([_decode_frame(_encode_frame(frame)) for frame in frames])


def write_index(path, rows):
    """Writes clips.csv rows (dicts with COLUMNS) to `path`, sorted by clip."""
    with open(path, 'w', newline='', **TEXT) as file:
        # with the usual line end, \r\n: csv quotes only the one it writes
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row['clip']))


def read_index(data_dir, ok_only=True):
    """Reads clips.csv.

    Args:
      data_dir: folder of preprocessed clips.
      ok_only: leave out clips whose status is not `ok`.

    Returns:
      dict from clip ('Class/stem') to its row, a dict with COLUMNS; numbers are int
      and float, None where nothing is known.

    Raises:
      ValueError: there is no clips.csv, or it is not one.
    """
    path = os.path.join(data_dir, 'clips.csv')
    if not os.path.isfile(path):
        raise ValueError(
            f'{path} is missing: make it with '
            f'python optical_flow.py --video_dir=VIDEOS --data_dir={data_dir}'
        )
    # spreadsheets save it with a byte order mark
    with open(path, newline='', encoding='utf-8-sig', errors=TEXT['errors']) as file:
        reader = csv.DictReader(file)
        try:
            ours = set(reader.fieldnames or ()) == set(COLUMNS)
            rows = [numbers(row) for row in reader] if ours else []
        except (csv.Error, ValueError) as error:
            raise ValueError(
                f'{path}: a row is damaged (line {reader.line_num}: {error}): delete '
                'it and run optical_flow.py again, which makes that clip again'
            ) from error
    if not ours:
        raise ValueError(
            f'{path} does not have the columns {",".join(COLUMNS)}: delete it and run '
            'optical_flow.py again, which makes the clips again'
        )
    return {row['clip']: row for row in rows if row['status'] == 'ok' or not ok_only}


def preprocessing_of(rows):
    """The one way all clips were made: dict of `flow`, `bound`, `size`, `settings`.

    Raises:
      ValueError: they were made in different ways, which no network should be fed.
    """
    names = ('flow', 'bound', 'size', 'settings')
    found = {tuple(row[name] for name in names) for row in rows}
    if len(found) > 1:
        raise ValueError(
            f'the clips were preprocessed in {len(found)} different ways '
            f'{sorted(found)}: run optical_flow.py --overwrite'
        )
    return dict(zip(names, found.pop(), strict=True))


def numbers(row):
    """A row of csv text with its numeric columns as int and float ('' is None)."""
    if None in row or None in row.values():  # as csv tells of too many, of too few
        raise ValueError(f'it does not have {len(COLUMNS)} columns')
    as_int = {name: int(row[name]) if row[name] else None for name in INT_COLUMNS}
    as_float = {name: float(row[name]) if row[name] else None for name in FLOAT_COLUMNS}
    row = {**row, **as_int, **as_float}
    needed = (row['frames'], row['bound'], row['size'], row['settings'] or None)
    if row['status'] == 'ok' and None in needed:
        raise ValueError('it says ok without frames, bound, size or settings')
    return row


def _frames_reader(data_dir, clip):
    return _reader(frames_path(data_dir, clip), FRAMES, _decode_frame)


def _flow_reader(data_dir, clip):
    return _reader(flow_path(data_dir, clip), FLOW, _decode_field)


def _reader(path, ending, decode):
    try:
        return archive.Reader(path, ending, decode)
    except FileNotFoundError as error:
        old = os.path.splitext(path)[0] + '.avi'
        if os.path.exists(old):
            raise ValueError(
                f'{old} has a format that is no longer read: delete the folders '
                'resized and optical-flow and run optical_flow.py --overwrite'
            ) from error
        raise ValueError(f'{path} is missing: run optical_flow.py again') from error


def verify_frames(data_dir, clip):
    """Counts a clip's stored frames, comparing every byte of their file with its CRC.

    Raises:
      ValueError: the file is missing, or a byte is not as it was written.
    """
    with _frames_reader(data_dir, clip) as reader:
        return reader.verify()


def verify_flow(data_dir, clip):
    """As `verify_frames`, of a clip's fields of flow."""
    with _flow_reader(data_dir, clip) as reader:
        return reader.verify()


def read_frames(data_dir, clip, steps=None):
    """Reads stored frames.

    Args:
      data_dir: folder of preprocessed clips.
      clip: 'Class/stem'.
      steps: ints [n], which frames, in any order and repeated at will; None for all.

    Returns:
      uint8 [n, H, W, 3], BGR.

    Raises:
      ValueError: the file is missing or damaged, or has no such frame.
    """
    with _frames_reader(data_dir, clip) as reader:
        return _read(reader, steps)


def read_flow(data_dir, clip, steps=None):
    """Reads stored flow, lossless.

    Args:
      data_dir: folder of preprocessed clips.
      clip: 'Class/stem'.
      steps: ints [n], which fields (field t lies between frames t and t + 1), in any
        order and repeated at will; None for all.

    Returns:
      uint8 [n, H, W, 2], x and y as `quantize_flow` made them.

    Raises:
      ValueError: the file is missing or damaged, or has no such field.
    """
    with _flow_reader(data_dir, clip) as reader:
        return _read(reader, steps).transpose(0, 2, 3, 1)


def _read(reader, steps):
    """Images of an open file, uint8 [n, ...]."""
    if steps is None:
        steps = range(reader.count)
    steps = np.asarray(steps, np.int64).tolist()
    if len(steps) == 1:
        return reader.read(steps[0])[np.newaxis]  # a copy would be a tenth of the time
    images = _decoded(reader, steps or [0])  # where none is wanted, the first's shape
    first = next(images)
    found = np.empty((len(steps), *first.shape), np.uint8)
    for place, image in zip(found, itertools.chain([first], images), strict=False):
        place[...] = image
    return found


def _decoded(reader, steps):
    """Yields an image for each step; one that is wanted again is kept until then."""
    last = {step: n for n, step in enumerate(steps)}
    ends = list(steps)  # of the consecutive steps that each is one of
    for n in reversed(range(len(steps) - 1)):
        if steps[n + 1] == steps[n] + 1:
            ends[n] = ends[n + 1]
    kept, shape, ahead = {}, None, range(0)
    for n, step in enumerate(steps):
        if step not in kept and step not in ahead and ends[n] > step:
            ahead = range(step, min(ends[n] + 1, step + READ_AHEAD))
            reader.read_ahead(ahead)
        image = kept.pop(step) if step in kept else reader.read(step)
        shape = shape or image.shape
        if image.shape != shape:
            raise ValueError(
                f'{reader.path} holds images of several sizes: '
                'delete it and run optical_flow.py again'
            )
        if n < last[step]:
            kept[step] = image
        yield image


def flow_stacks(flow, starts, length):
    """Stacks of consecutive flow fields, the input of the motion CNN.

    The stack at t is fields t .. t + length - 1, channels x1, y1, x2, y2, ... (Simonyan
    and Zisserman 2014, eq. 1); past the end the last field repeats.

    Args:
      flow: uint8 [T - 1, H, W, 2].
      starts: ints [n], first field of each stack.
      length: fields in a stack, L.

    Returns:
      uint8 [n, H, W, 2L].
    """
    fields = _stack_fields(starts, length, len(flow))
    stacks = np.empty((len(fields), *flow.shape[1:3], 2 * length), np.uint8)
    for stack, chosen in zip(stacks, fields, strict=True):
        _write_stack(stack, np.ascontiguousarray(flow[chosen].transpose(0, 3, 1, 2)))
    return stacks


def read_stacks(data_dir, clip, starts, length):
    """`flow_stacks` from disk; a field that several stacks share is read once.

    Args:
      data_dir: folder of preprocessed clips.
      clip: 'Class/stem'.
      starts: ints [n], first field of each stack.
      length: fields in a stack, L.

    Returns:
      uint8 [n, H, W, 2L].

    Raises:
      ValueError: the file is missing or damaged.
    """
    with _flow_reader(data_dir, clip) as reader:
        fields = _stack_fields(starts, length, reader.count).ravel().tolist()
        images = _decoded(reader, fields or [0])
        first = next(images)
        planes = np.empty((length, *first.shape), np.uint8)
        stacks = np.empty((len(starts), *first.shape[1:], 2 * length), np.uint8)
        images = itertools.chain([first], images)
        for stack in stacks:
            for place, image in zip(
                planes, itertools.islice(images, length), strict=True
            ):
                place[...] = image
            _write_stack(stack, planes)
    return stacks


def _stack_fields(starts, length, total):
    starts = np.asarray(starts, np.int64)
    if starts.size and starts.min() < 0:
        raise ValueError(f'a stack cannot start at field {starts.min()}')
    return np.minimum(starts[:, np.newaxis] + np.arange(length), total - 1)


def _write_stack(stack, planes):
    """Turns planes [L, 2, H, W] into the channels of stack [H, W, 2L]."""
    channels = stack.shape[2]
    # as a matrix, three times as fast as a strided copy
    cv2.transpose(planes.reshape(channels, -1), stack.reshape(-1, channels))
