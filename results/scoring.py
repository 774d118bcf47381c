"""The probabilities that a run gives clips, for evaluation.

    probabilities = scoring.score(run, checkpoint, data_dir, examples, rows, protocol)

All samples of a clip together, one sample alone, and each branch of a hybrid.
"""

from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf
import tqdm

import model
from data import augmentation
from data import features
from data import feeds
from data import sampling
from results import extraction
from results import inference
from results import runs

SEGMENTS = 25  # samples of a clip, for a CNN alone


class Protocol(NamedTuple):
    """What is measured, and how."""

    subset: str = 'test'
    test_segments: int = None  # samples of a clip; None for the default
    test_crops: int = 1  # or 5 or 10
    test_views: str = 'whole'  # or 'mirror': the mean with the mirror images
    unknown_below: float = None  # probability below which no class is named
    allow_overlap: bool = False
    allow_missing: bool = False
    compare: tuple = ()  # folders of runs to compare with


def default_segments(flags):
    """Samples of a clip that are scored where nothing else is asked for."""
    return SEGMENTS if flags['stage'] in model.STREAMS else flags['num_segments']


def crop_inputs(count, crops, mirror=False):
    """The crops of test time for `count` images: the whole, with its mirror image if
    asked; or corners and centre at .875, without or with their mirror images. Yields
    feeds by name."""
    if crops == 1:
        whole = augmentation.whole_images(count)
        yield whole
        if mirror:
            yield {**whole, 'mirrored': np.ones(count, bool)}
        return
    for mirrored in (False, True)[: crops // 5]:
        for place in range(5):
            yield {
                'crop_scale': np.full(count, 0.875, np.float32),
                'place': np.full(count, place, np.int32),
                'mirrored': np.full(count, mirrored),
            }


def score_cnn(session, graph, batches, crops, mirror=False):
    """Scores clips by one CNN.

    Args:
      session: of the graph.
      graph: what model.classifier returned.
      batches: iterator of uint8 [T, H, W, D], the samples of each clip.
      crops: 1, 5 or 10.
      mirror: take the mirror image of each sample as well.

    Yields:
      dict of float [C] per clip: 'video', the mean over samples and crops, and
      'one_sample', the middle sample as a whole image.
    """
    inputs, logits, _ = graph
    probabilities = model.probabilities(logits)

    def run(images, crop):
        feed = {'images': images, 'keep_prob': 1.0, 'dropout_seed': [0, 0], **crop}
        return session.run(probabilities, {inputs[n]: x for n, x in feed.items()})

    for images in batches:
        middle = images[[sampling.middle_start(len(images), 1)]]
        crops_of_clip = crop_inputs(len(images), crops, mirror)
        yield {
            'video': np.mean([run(images, crop) for crop in crops_of_clip], (0, 1)),
            'one_sample': run(middle, augmentation.whole_images(1))[0],
        }


def score_hybrid(session, graph, batches, crops, branches, head, mirror=False):
    """Scores clips by the hybrid or joint graph.

    Args:
      session: of the graph.
      graph: what model.classifier returned.
      batches: iterator of the views of a batch, each as of `feeds.read`; the first is
        of whole images.
      crops: 1; or 5 or 10 for a graph from pixels.
      branches, head: of the run.
      mirror: for a graph from pixels, take mirror images as well.

    Yields:
      dict of float [C] per clip: 'video'; 'one_sample', of the middle sample alone;
      each branch's own part of the logits by its name, as probabilities; and, where
      one softmax has several branches, those without a branch as `without_<branch>`.
    """
    inputs, logits, end_points = graph
    outputs = {'video': model.probabilities(logits)}
    for branch in branches:
        part = end_points[f'{branch}/logits']
        outputs[branch] = model.probabilities(part)
        if head == 'concat' and len(branches) > 1:
            outputs[f'without_{branch}'] = model.probabilities(logits - part)

    def run(batch, crop, wanted):
        feed = {**batch, **crop, 'keep_prob': 1.0, 'dropout_seed': [0, 0]}
        feed = {inputs[n]: value for n, value in feed.items() if n in inputs}
        return session.run(wanted, feed)

    for views in batches:
        batch, lengths = views[0], views[0]['lengths']
        count = np.arange(len(lengths))
        found = [
            run(view, crop, outputs)
            for view in views
            for crop in crop_inputs(len(count), crops, mirror)
        ]
        video = {name: np.mean([each[name] for each in found], 0) for name in outputs}
        streams = [stream for stream in model.STREAMS if stream in batch]
        steps = [sampling.middle_start(length, 1) for length in lengths]
        middle = {s: batch[s][count, steps][:, None] for s in streams}
        middle['lengths'] = np.ones_like(lengths)
        whole = augmentation.whole_images(len(count))
        one_sample = run(middle, whole, outputs['video'])
        values = {'video': video.pop('video'), 'one_sample': one_sample, **video}
        for place in count:
            yield {name: value[place] for name, value in values.items()}


def cache_mirrors(run, data_dir, rows, workers):
    """Fills the feature cache with the mirror images of clips; returns the CNNs as
    run.json has them, with the folders of these features."""
    places = {f'{s}_weights': cnn['weights'] for s, cnn in run['cnns'].items()}
    flags = {**run['flags'], **places, 'data_dir': data_dir, 'workers': workers}
    size, wanted = run['preprocessing']['size'], {sampling.MIRROR: list(rows)}
    return {
        stream: extraction.cache_features(flags, stream, rows, size, wanted)
        for stream in run['cnns']
    }


def score(run, checkpoint, data_dir, examples, rows, protocol, batch_size, workers):
    """Restores the run and scores clips.

    Args:
      run: the content of run.json.
      checkpoint: of the run.
      data_dir: the preprocessed clips.
      examples: list of splits.Example.
      rows: dict clip -> row of clips.csv.
      protocol: Protocol, with its test_segments.
      batch_size: clips at a time.
      workers: threads that read clips.

    Returns:
      dict name -> float [N, C] probabilities, N the number of examples.

    Raises:
      ValueError: the checkpoint or a CNN's dump is not whole or not the run's.
    """
    flags, cnns = run['flags'], run['cnns']
    alone = flags['stage'] in model.STREAMS
    if flags['stage'] == 'hybrid':
        views = [cnns]
        if protocol.test_views == 'mirror':
            of_clips = {example.clip: rows[example.clip] for example in examples}
            views.append(cache_mirrors(run, data_dir, of_clips, workers))
        folders = [features.folders(data_dir, of_view) for of_view in views]
        readers = [features.reader(of_view) for of_view in folders]
    else:
        streams = {stream: model.STREAMS[stream] for stream in cnns}
        segments, length = protocol.test_segments, flags['stack_length']
        readers = [feeds.segment_reader(data_dir, streams, segments, length)]
    requests = feeds.evaluation_requests(examples, rows, 1 if alone else batch_size)
    views = [feeds.read(requests, read, workers) for read in readers]
    batches = zip(*views, strict=True)
    mirror = protocol.test_views == 'mirror' and flags['stage'] != 'hybrid'
    widths = {stream: cnn.get('width') for stream, cnn in cnns.items()}
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(flags['seed'])
        graph = model.classifier(flags['stage'], runs.architecture(run), widths)
        inference.restore(session, checkpoint, run)
        if alone:
            images = (batch[flags['stage']][0] for (batch,) in batches)
            scored = score_cnn(session, graph, images, protocol.test_crops, mirror)
        else:
            scored = score_hybrid(
                session,
                graph,
                batches,
                protocol.test_crops,
                [name for name in model.all_branches() if name in flags['branches']],
                flags['head'],
                mirror,
            )
        found = list(
            tqdm.tqdm(scored, 'scoring', len(examples), unit='clip', disable=None)
        )
    check_scores(found, examples)
    return {name: np.stack([each[name] for each in found]) for name in found[0]}


def check_scores(found, examples):
    """Raises ValueError unless there is one finite score for each clip."""
    if len(found) != len(examples):
        raise ValueError(
            f'{len(found)} clips were scored, the split has {len(examples)}: run '
            'optical_flow.py --check on --data_dir'
        )
    for scores, example in zip(found, examples, strict=True):
        if not all(np.isfinite(values).all() for values in scores.values()):
            raise ValueError(
                f'{example.clip}: the network gives no finite probability; the '
                'checkpoint is damaged, or training had diverged'
            )
