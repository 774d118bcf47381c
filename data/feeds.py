"""What the graph of a stage is fed: pixels or cached features, labels, crops, seeds.

    stream = model.STREAMS['motion']
    requests = feeds.training_requests(examples, rows, 32, seed=0, span=stream.span(10))
    read = feeds.image_reader(data_dir, stream, stack_length=10)
    for batch in feeds.read(map(requests, range(steps)), read, workers=8):
        feed = {inputs[name]: value for name, value in batch.items()}

A request says which clips a batch has and what is fed beside them; a reader reads one
clip; `read` puts both together ahead of time.
"""

from typing import NamedTuple

import numpy as np

from data import augmentation
from data import batches
from data import sampling


class Request(NamedTuple):
    """What one batch is made of."""

    clips: list  # (row of clips.csv, first frame of the input or view; None: the usual)
    feed: dict  # the other inputs of the graph by name


# -- requests --------------------------------------------------------------------------


def training_requests(
    examples,
    rows,
    batch_size,
    seed,
    keep_prob=1.0,
    balanced=False,
    span=None,
    num_views=1,
):
    """The batch of each training step.

    Args:
      examples: list of splits.Example.
      rows: dict clip -> row of clips.csv.
      batch_size: B.
      seed: int that everything random follows from, together with the step.
      keep_prob: dropout keep probability.
      balanced: draw classes evenly.
      span: frames that an input of one CNN covers, to draw its first frame, as
        `image_reader` needs it; None where the whole clip is sampled.
      num_views: views of each clip in the feature cache, to draw one; they are there
        for the whole clip.

    Returns:
      Function step -> Request, the same for the same (seed, step).
    """
    labels = np.array([example.label for example in examples])

    def request(step):
        if balanced:
            indices = batches.balanced_positions(step, batch_size, labels, seed)
        else:
            indices = batches.positions(step, batch_size, len(examples), seed)
        chosen = [rows[examples[index].clip] for index in indices]
        if span:
            frames = [row['frames'] for row in chosen]
            which = sampling.random_starts(frames, span, seed, step)
        else:
            which = sampling.random_views(batch_size, num_views, seed, step)
        feed = {
            'labels': labels[indices],
            'keep_prob': keep_prob,
            'dropout_seed': [seed, step],
            **augmentation.random_crops(batch_size, seed, step),
        }
        return Request(list(zip(chosen, which, strict=True)), feed)

    return request


def part_of(request, part, parts):
    """The Request of one of several workers: its part of a batch, and what is common to
    all of it.

    Args:
      request: Request of a batch, whose size is a multiple of `parts`.
      part, parts: ints, from 0.
    """
    size = len(request.clips) // parts
    rows = slice(part * size, (part + 1) * size)
    feed = {
        name: value[rows] if isinstance(value, np.ndarray) else value
        for name, value in request.feed.items()
    }
    return Request(request.clips[rows], feed)


def evaluation_requests(examples, rows, batch_size, span=None):
    """Batches that go through all clips once, without random crops and dropout.

    Args:
      examples, rows, batch_size: as in `training_requests`.
      span: frames that an input of one CNN covers, of which the middle one is taken;
        None where the whole clip is sampled.

    Returns:
      List of Request.
    """
    chosen = [rows[example.clip] for example in examples]
    starts = [span and sampling.middle_start(row['frames'], span) for row in chosen]
    clips = list(zip(chosen, starts, strict=True))
    parts = [clips[n : n + batch_size] for n in range(0, len(clips), batch_size)]
    return [Request(part, deterministic_feed(len(part))) for part in parts]


def deterministic_feed(count):
    """The feed of `count` clips without random crops and dropout."""
    whole = augmentation.whole_images(count)
    return {'keep_prob': 1.0, 'dropout_seed': [0, 0], **whole}


# -- readers of one clip ---------------------------------------------------------------


def image_reader(data_dir, stream, stack_length):
    """Reads one input of one CNN from a clip.

    Args:
      data_dir: folder of preprocessed clips.
      stream: model.Stream.
      stack_length: L.

    Returns:
      Function (row, start) -> {'images': uint8 [H, W, 3 or 2L]}.
    """

    def read(row, start):
        clip = sampling.stored_clip(data_dir, row)
        return {'images': stream.read(clip, [start], stack_length)[0]}

    return read


def segment_reader(data_dir, streams, num_segments, stack_length):
    """Reads the evenly spaced inputs that represent a clip, from pixels.

    Args:
      data_dir: folder of preprocessed clips.
      streams: dict name -> model.Stream.
      num_segments: T.
      stack_length: L.

    Returns:
      Function (row, _) -> dict name -> uint8 [T, H, W, 3 or 2L].
    """

    def read(row, _=None):
        clip = sampling.stored_clip(data_dir, row)
        return segments(clip, streams, num_segments, stack_length)

    return read


def segments(clip, streams, num_segments, stack_length):
    """The evenly spaced inputs that represent a sampling.Clip, by stream."""
    return {
        name: stream.read(
            clip,
            sampling.segment_starts(
                clip.num_frames, stream.span(stack_length), num_segments
            ),
            stack_length,
        )
        for name, stream in streams.items()
    }


# -- batches ---------------------------------------------------------------------------


def read(requests, read_clip, workers, ahead=2):
    """Reads and puts together each batch as the graph wants it, ahead of its use.

    Args:
      requests: iterable of Request.
      read_clip: function (row, start) -> dict name -> array of one clip.
      workers: threads.
      ahead: batches read ahead.

    Returns:
      Iterator of dicts of the graph's inputs by name. `images` of clips are stacked;
      everything else is a sequence, padded, with `lengths` int32 [B].
    """
    feeds = []

    def clips_of(requests):
        for request in requests:
            feeds.append(request.feed)
            yield request.clips

    def read_item(item):
        return read_clip(*item)

    def put_together(ahead):
        for found in batches.read_ahead(clips_of(requests), read_item, workers, ahead):
            batch = dict(feeds.pop(0))  # the request may be read again
            for name in found[0]:
                values = [clip[name] for clip in found]
                if name == 'images':
                    batch[name] = np.stack(values)
                else:
                    batch[name], batch['lengths'] = batches.pad(values)
            yield batch

    # copying the clips of a batch takes as long as a GPU takes for its step
    return batches.made_ahead(put_together(ahead - 1)) if ahead else put_together(0)
