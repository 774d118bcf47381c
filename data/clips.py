"""Preprocessed clips on disk: how frames and optical flow are stored and read back.

    frames = clips.read_frames(data_dir, 'Archery/v_Archery_g01_c01', steps=[0, 8, 16])
    stacks = clips.read_stacks(data_dir, 'Archery/v_Archery_g01_c01', [0, 40], length=10)

`optical_flow.py` writes this format, everything else reads it; data/README.md is the
contract. T frames stand in resized/<Class>/<clip>.avi (Motion JPEG), the T-1 fields of
flow between them in optical-flow/<Class>/<clip>.avi (FFV1, lossless, grey, x left of
y), what is known about each clip in clips.csv.
"""

import csv
import os
import struct

import cv2
import numpy as np

FRAME_SIZE = 224
# Pixels a frame that reach the end of the scale. 0.4 % of components exceed 10 and
# 0.004 % exceed 20, so 20 cuts nothing that matters and resolves 0.16 pixels.
FLOW_BOUND = 20.0
FLOW_ZERO = 128
# Bytes of frames. Where the size of a file no longer fits into 32 bits, OpenCV's Motion
# JPEG writer ends the process; FFmpeg's, which writes the flow, goes on.
LARGEST = 4e9
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
# A seek costs as much as decoding about this many pictures in order: each takes 4 ms
# against 0.3 (frames) and 26 ms against 1.7 (flow of a busy clip).
SEEK_GAP = 16


def quantize_flow(flow, bound=FLOW_BOUND):
    """Flow as it is stored: round(v * 127 / bound) + 128, clipped to 1..255.

    No motion is exactly 128, and 256 - x is exactly the opposite motion.

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


def flow_picture(flow):
    """uint8 flow [H, W, 2] as the stored grey picture [H, 2W], x left and y right."""
    return np.concatenate([flow[:, :, 0], flow[:, :, 1]], axis=1)


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
    return os.path.join(data_dir, folder, parts[0], parts[1] + '.avi')


def open_frames_writer(path, size=FRAME_SIZE, fps=25.0):
    """Writer of [size, size, 3] BGR frames to `path`; ValueError if it will not open.

    OpenCV's own Motion JPEG encoder: 40 dB against 37 dB of the one in FFmpeg.
    """
    fourcc = cv2.VideoWriter_fourcc(*'MJPG')
    return _opened_writer(path, cv2.CAP_OPENCV_MJPEG, fourcc, fps, (size, size), True)


def open_flow_writer(path, size=FRAME_SIZE, fps=25.0):
    """Writer of [size, 2 * size] grey pictures; ValueError if it will not open."""
    fourcc = cv2.VideoWriter_fourcc(*'FFV1')
    return _opened_writer(path, cv2.CAP_FFMPEG, fourcc, fps, (2 * size, size), False)


def _opened_writer(path, backend, fourcc, fps, width_height, color):
    # The rate only tells players how fast to show the file; the source's own stands in
    # clips.csv. AVI loses pictures at rates such as the 90000 of some phone videos.
    rate = round(fps) if 1 <= fps <= 240 else 25
    place = os.path.join(os.curdir, path)  # FFmpeg takes my:folder for a protocol
    writer = cv2.VideoWriter(place, backend, fourcc, rate, width_height, color)
    if not writer.isOpened():
        raise ValueError(f'{path} cannot be opened for writing')
    return writer


def whole_pictures(path):
    """Counts the pictures of a stored file without decoding it.

    An AVI is a chain of chunks that say how long they are, so a file that lost a piece
    anywhere (a full disk, a writer that was killed) does not add up.

    Args:
      path: file made by one of the writers above and released.

    Returns:
      int, pictures whose every byte is there.

    Raises:
      ValueError: the chain is broken or the file goes on or ends elsewhere.
    """
    count = 0
    position = 0
    with open(path, 'rb', buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while position + 8 <= size:
            file.seek(position)
            tag, length = struct.unpack('<4sI', file.read(8))
            end = position + 8 + length + length % 2
            if end > size:
                break
            count += tag[2:] in (b'dc', b'db') and length > 0
            position = position + 12 if tag in (b'RIFF', b'LIST') else end
    if position != size or not count:
        raise ValueError(f'{path} is not a whole AVI file')
    return count


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


def read_frames(data_dir, clip, steps=None):
    """Reads stored frames.

    Args:
      data_dir: folder of preprocessed clips.
      clip: 'Class/stem'.
      steps: ints [n], which frames, in any order and repeated at will; None for all.

    Returns:
      uint8 [n, H, W, 3], BGR.

    Raises:
      ValueError: the file cannot be read, ends early or has no such frame.
    """
    return _read(frames_path(data_dir, clip), steps)


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
      ValueError: the file cannot be read, ends early or has no such field.
    """
    pictures = _read(flow_path(data_dir, clip), steps, grey=True)
    count, height, width = pictures.shape
    return pictures.reshape(count, height, 2, width // 2).transpose(0, 1, 3, 2)


def count_pictures(path):
    """The number of frames or fields that the header of a stored file promises."""
    return int(_opened(path).get(cv2.CAP_PROP_FRAME_COUNT))


def _opened(path):
    capture = cv2.VideoCapture(os.path.join(os.curdir, path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise ValueError(
            f'{path} cannot be read: delete it and run optical_flow.py again'
        )
    return capture


def _read(path, steps, grey=False):
    capture = _opened(path)
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
    height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    steps = np.arange(total) if steps is None else np.asarray(steps, np.int64)
    wanted, order = np.unique(steps, return_inverse=True)
    if wanted.size and not 0 <= wanted[0] <= wanted[-1] < total:
        wrong = wanted[0] if wanted[0] < 0 else wanted[-1]
        raise ValueError(f'{path} has {total} pictures, there is no number {wrong}')
    shape = [wanted.size, height, width] + ([] if grey else [3])
    pictures = np.empty(shape, np.uint8)
    position = 0
    for row, step in enumerate(wanted):
        if step - position > SEEK_GAP:
            capture.set(cv2.CAP_PROP_POS_FRAMES, float(step))
            position = step
        while position < step and capture.grab():
            position += 1
        whole, picture = capture.read()
        if not whole:
            raise ValueError(
                f'{path} ends at {position} of {total} pictures: '
                'delete it and run optical_flow.py again'
            )
        pictures[row] = picture[:, :, 0] if grey else picture
        position += 1
    in_order = steps.size == wanted.size and np.array_equal(steps, wanted)
    return pictures if in_order else pictures[order]


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
    return _as_channels(flow[fields])


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
      ValueError: the file cannot be read or ends early.
    """
    total = count_pictures(flow_path(data_dir, clip))
    fields = _stack_fields(starts, length, total)
    wanted, order = np.unique(fields, return_inverse=True)
    flow = read_flow(data_dir, clip, wanted)
    return _as_channels(flow[order.reshape(fields.shape)])


def _stack_fields(starts, length, total):
    starts = np.asarray(starts, np.int64)
    if starts.size and starts.min() < 0:
        raise ValueError(f'a stack cannot start at field {starts.min()}')
    return np.minimum(starts[:, np.newaxis] + np.arange(length), total - 1)


def _as_channels(fields):
    count, length, height, width, _ = fields.shape
    return fields.transpose(0, 2, 3, 1, 4).reshape(count, height, width, 2 * length)
