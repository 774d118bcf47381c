"""Videos to frames with their times, whatever the container, and whether one is whole.

    with contextlib.closing(decoding.open_video(path)) as video:
        for seconds, frame in video.frames():
            ...
        reason = video.truncation()

PyAV decodes, since it says what OpenCV keeps to itself: the time of each frame, the
display matrix, which frames are interlaced, which packets are damaged, and which tracks
there are. Used by optical_flow.py and by prediction; cameras go through OpenCV.

Interlaced frames are deinterlaced (bwdif, one frame out of each): two fields in one
frame are two moments, and the comb between them would be motion to the optical flow.
Frames that rest on damaged data are left out up to the next key frame.
"""

import fractions
import os
import re
import stat
import struct
import time

import av
import cv2
import numpy as np

from data.preprocessing import videos

DEINTERLACING = 'mode=send_frame:parity=auto:deint=interlaced'  # of bwdif
# Where the size does not change, it interpolates chroma alone.
TO_BGR = av.video.reformatter.Interpolation.BILINEAR
# How a file becomes frames: part of what clips depend on.
DECODING = {
    'decoder': 'PyAV',
    'interlaced': f'bwdif={DEINTERLACING}',
    'to_bgr': TO_BGR.name,
    'damaged': 'left out up to the next key frame',
    'upright': 'by the display matrix',
}
# Containers whose header says how long they last without having read to the end.
TIMED = ('matroska', 'flv', 'asf')
STILL = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
USUAL_RATE = 25.0  # frames a second, where nothing is known
AHEAD = 4 << 20  # bytes of frames decoded at once


class Video:
    """An opened video file.

    Attributes:
      counted: frames that the container counts; 0 where it does not count.
      rate: frames a second as the header has it; only a hint, 0 where it has none.
      codec: name of the codec.
      damaged: packets that did not decode and frames left out because of them, so far.
    """

    def __init__(self, path, container, stream):
        self._path, self._container, self._stream = path, container, stream
        self._timed = container.format.name.startswith(TIMED)
        self._packets = 0
        self._chunks = 0  # empty ones included, for AVI
        self._last_end = 0.0  # of all tracks, in seconds
        self._yielded = 0
        self.damaged = 0
        self._broken = ''
        self._turn = None
        self._reformatter = av.video.reformatter.VideoReformatter()
        stream.codec_context.thread_count = 1  # the processes share the cores already
        self.counted = stream.frames
        self.rate = float(stream.average_rate or stream.guessed_rate or 0)
        self.codec = stream.codec_context.name

    def close(self):
        self._container.close()

    @property
    def aspect(self):
        """Width of a pixel divided by its height, in upright frames, a Fraction."""
        ratio = self._stream.sample_aspect_ratio or fractions.Fraction(1)
        return 1 / ratio if self._turn and self._turn[0] else ratio

    def expected_frames(self):
        """Frames there may be: the container's count, or duration times rate; or 0."""
        seconds = (self._container.duration or 0) / av.time_base
        return self.counted or round(seconds * _likely(self.rate))

    def frames(self):
        """Yields the video's frames once.

        Yields:
          (seconds since the first frame, growing; frame uint8 [height, width, 3] BGR,
          upright).

        Raises:
          ValueError, OSError: reading or converting fails, with the reason.
        """
        try:
            yield from _ahead(self._converted())
        except av.FFmpegError as error:
            raise ValueError(f'FFmpeg: {error.strerror}') from error

    def _converted(self):
        clock = _Clock(self.rate)
        for frame in _deinterlaced(self._whole_frames()):
            bgr = self._reformatter.reformat(
                frame, format='bgr24', interpolation=TO_BGR, threads=1
            )
            self._yielded += 1
            yield clock.seconds(frame.time), self._upright(bgr.to_ndarray())

    def _whole_frames(self):
        """Yields frames as they decode, but none that rests on damaged data."""
        whole, decoder = True, self._stream.codec_context
        for packet in self._read():
            try:
                decoded = decoder.decode(packet)
            except MemoryError:
                raise
            except av.FFmpegError:
                decoded, whole = [], False
                self.damaged += 1
            for frame in decoded:
                whole = not frame.is_corrupt and (whole or frame.key_frame)
                if whole:
                    if self._turn is None:
                        self._turn = turn_of(frame)
                    yield frame
                else:
                    self.damaged += 1

    def _read(self):
        """Yields the track's packets, and None when the decoder should empty itself."""
        # of a timed container, sound tells how far the file goes as well
        tracks = [] if self._timed else [self._stream]
        cut_packets = self._container.format.name != 'mpegts'  # there it says little
        try:
            for packet in self._container.demux(*tracks):
                if packet.dts is None and packet.pts is None and not packet.size:
                    continue  # PyAV's own, one a track at the end
                self._note_end(packet)
                if packet.stream.index != self._stream.index:
                    continue
                self._packets += 1
                self._chunks = max(self._chunks, (packet.dts or 0) + 1)
                if packet.is_corrupt and cut_packets:
                    self.damaged += 1
                elif packet.size:
                    yield packet
        except av.error.InvalidDataError as error:
            self._broken = error.strerror
        except OSError as error:  # of the disk
            raise OSError(error.errno, error.strerror, self._path) from error
        yield None

    def _note_end(self, packet):
        begin = packet.dts if packet.pts is None else packet.pts
        if begin is not None:
            end = (begin + (packet.duration or 0)) * packet.time_base
            self._last_end = max(self._last_end, float(end))

    def _upright(self, frame):
        transposed, flip = self._turn
        if transposed:
            frame = cv2.transpose(frame)
        return frame if flip is None else cv2.flip(frame, flip)

    def truncation(self):
        """How the video breaks off, once all its frames were asked for.

        Held against what was read is the container's list of its samples: frames that
        an edit list hides, as in every video trimmed on a phone, and empty chunks are
        not missing. Where there is no list, it is the header's duration against the end
        of the last packet of any track, as sound may outlast the frames. An estimate
        (duration times rate) counts for nothing.

        Returns:
          str, '' if nothing, or next to nothing, is missing.
        """
        missing = self.damaged + self._unread()
        total = self._yielded + missing
        lasts, found = self._seconds()
        if too_many(missing, total):
            reason = (
                f'{self._yielded} of {total} frames decode (codec {self.codec}), '
                'the rest is missing or damaged'
            )
        elif self._broken:
            reason = f'reading stops after {self._yielded} frames: {self._broken}'
        elif lasts - found > max(1, 0.05 * lasts):
            reason = f'it breaks off after {found:.1f} of {lasts:.1f} seconds'
        else:
            return ''
        return f'{reason} (--keep_truncated takes it as it is)'

    def _seconds(self):
        """(what the header says the file lasts, what was found); 0 without a header."""
        if not self._timed or not self._container.duration:
            return 0, 0
        lasts = self._container.duration / av.time_base
        begin = (self._container.start_time or 0) / av.time_base
        # some headers count from 0, others from where time begins
        return lasts - (begin if begin < lasts else 0), self._last_end - begin

    def _unread(self):
        """Samples that the container lists but that are not in the file."""
        if self._container.format.name == 'avi':
            # a whole file whose header counts more has a wrong header, or empty chunks
            unread = 0 if _is_whole_riff(self._path) else self.counted - self._chunks
            return max(0, unread)
        if self._container.format.name.startswith('mov'):
            return max(0, len(self._stream.index_entries) - self._packets)
        return 0


class _Clock:
    """Times of frames that grow, whatever the file says."""

    def __init__(self, rate):
        self._step = 1 / _likely(rate)
        self._origin = self._last = None

    def seconds(self, stamp):
        """Seconds since the first frame of a frame's time stamp, which may be None."""
        if self._last is None:
            self._origin, self._last = stamp, 0.0
            return self._last
        if self._origin is None:
            self._origin = stamp
        now = -1 if stamp is None else stamp - self._origin
        if now > self._last:
            self._step = now - self._last
        else:
            now = self._last + self._step
        self._last = now
        return now


def _ahead(pairs):
    """Yields (seconds, frame) from batches of some megabytes.

    Decoding one frame at a time, between the work on them, finds the processor's caches
    filled with that work and takes half as long again.
    """
    batch, size = [], 0
    for pair in pairs:
        batch.append(pair)
        size += pair[1].nbytes
        if size >= AHEAD:
            yield from batch
            batch, size = [], 0
    yield from batch


def _likely(rate):
    """The rate of a header where a video can have it, else the usual one."""
    return rate if 1 <= rate <= 240 else USUAL_RATE


def too_many(missing, total):
    """Whether more frames are missing than two, or one in twenty."""
    return missing > max(2, 0.05 * total)


def open_video(path):
    """Opens a video of any kind.

    Returns:
      Video.

    Raises:
      ValueError, OSError: it cannot be opened or decoded as a video, with the reason.
    """
    if not videos.is_utf8(path):
        raise ValueError('its name is not UTF-8: rename it')
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        raise ValueError('there is no such file') from error
    if not stat.S_ISREG(mode):
        raise ValueError('it is a folder or device, not a file')
    with open(path, 'rb') as file:
        if not file.read(1):
            raise ValueError('the file is empty')
    try:
        container = _open(path)
    except av.FFmpegError as error:
        raise ValueError('it cannot be opened as a video') from error
    stream = _choose_track(path, container)
    if stream.codec_context is None:
        raise ValueError(f'there is no decoder for its codec, {_codec_name(path)}')
    return Video(path, container, stream)


def _open(path):
    place = os.path.join(os.curdir, path)  # FFmpeg takes my:folder for a protocol
    return av.open(place, metadata_errors='ignore')


def _choose_track(path, container):
    """The video track: moving ones before stills, then the default, then the largest.

    Cover pictures are marked as such, but a still may also be an ordinary track of one
    frame.
    """
    tracks = [t for t in container.streams.video if not t.disposition & STILL]
    if not tracks:
        raise ValueError('it has no video track, only sound or a cover')
    moving = _moving(path) if len(tracks) > 1 else {}

    def rank(track):
        decoder = track.codec_context
        area = decoder.width * decoder.height if decoder else 0
        default = bool(track.disposition & av.stream.Disposition.default)
        return track.index in moving, decoder is not None, default, area, -track.index

    return max(tracks, key=rank)


def _moving(path):
    """Indices of the video tracks that have a second frame.

    They are looked up in the file: not every header has counts or durations.
    """
    seen, moving = set(), set()
    with _open(path) as container:
        tracks = container.streams.video
        for packet in container.demux(tracks):
            if packet.size:
                index = packet.stream.index
                (moving if index in seen else seen).add(index)
            if len(moving) == len(tracks):
                break
    return moving


def _codec_name(path):
    """What FFmpeg calls the codec it has no decoder for, or the container does."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.WARNING)
    try:
        with av.logging.Capture() as messages:
            _open(path).close()
    finally:
        av.logging.set_level(level)
    said = ' '.join(message for _, _, message in messages)
    match = re.search(r'Video: (?!none)(\w+)|Video: none \((.{4}) /', said)
    return (match[1] or match[2]) if match else 'which is unknown'


def _deinterlaced(frames):
    """Yields frames, the interlaced ones deinterlaced, as many as there are."""
    graph = shape = None
    for frame in frames:
        now = frame.width, frame.height, frame.format.name
        if graph is not None and now != shape:
            yield from _pushed(graph, None)
            graph = None
        if graph is None and frame.interlaced_frame:
            graph, shape = _bwdif(frame), now
        if graph is None:
            yield frame
        else:
            yield from _pushed(graph, frame)
    if graph is not None:
        yield from _pushed(graph, None)


def _bwdif(frame):
    """A filter graph for frames like this one; frames that are whole pass through."""
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base,
    )
    graph.link_nodes(
        source, graph.add('bwdif', DEINTERLACING), graph.add('buffersink')
    ).configure()
    return graph


def _pushed(graph, frame):
    graph.vpush(frame)
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def turn_of(frame):
    """How a decoded frame is turned upright, by its display matrix (ISO 14496-12).

    A pixel at (x, y) belongs to (a x + c y, b x + d y), which for multiples of right
    angles is: transpose first or not, then flip.

    Returns:
      (whether to transpose, code for cv2.flip or None).
    """
    matrix = frame.side_data.get(av.sidedata.sidedata.Type.DISPLAYMATRIX)
    if matrix is None:
        return False, None
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    x, y = (c, b) if transposed else (a, d)
    return transposed, {(1, 0): 1, (0, 1): 0, (1, 1): -1}.get((x < 0, y < 0))


def camera_frames(number):
    """Frames of a camera as they come, like `Video.frames`; ends when it does.

    Raises:
      ValueError: there is no such camera.
    """
    capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        raise ValueError('there is no such camera')

    def frames():
        begun = None
        try:
            while True:
                whole, frame = capture.read()
                if not whole:
                    return
                now = time.monotonic()
                begun = now if begun is None else begun
                yield now - begun, frame
        finally:
            capture.release()

    return frames()


def _is_whole_riff(path):
    """Whether an AVI file is as long as it says: a chain of RIFF chunks."""
    position, size = 0, os.path.getsize(path)
    with open(path, 'rb') as file:
        while position + 8 <= size:
            file.seek(position)
            tag, length = struct.unpack('<4sI', file.read(8))
            if tag != b'RIFF':  # something that was appended
                break
            if not length:  # its writer never came back to fill it in
                return False
            position += 8 + length + length % 2
    return position <= size
