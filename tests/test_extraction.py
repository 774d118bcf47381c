"""The feature cache is fc6 of the segments, and notices all that it depends on."""

import json
import shutil

import cv2
import narrow
import numpy as np
import programs
import pytest
import tensorflow.compat.v1 as tf
import tiny
import training

import cnnm
import evaluate
import model
import train
from data import augmentation
from data import clips
from data import features
from data import sampling
from results import extraction
from results import runs
from weights import dump


@pytest.fixture(autouse=True)
def narrow_networks(tiny_runs, monkeypatch):
    """Narrow networks, once the runs are made."""
    narrow.patch(monkeypatch)


@pytest.fixture
def written(monkeypatch):
    """Names of the clips whose features are written."""
    names, write = [], features.write

    def spy(path, clip, values, stamped):
        names.append(clip)
        write(path, clip, values, stamped)

    monkeypatch.setattr(features, 'write', spy)
    return names


@pytest.fixture
def cache(tiny_runs, tmp_path):
    """Function stream, rows of clips.csv, flags -> the CNN as run.json keeps it."""

    def call(stream, rows=(), wanted=None, **flags):
        weights = {f'{s}_weights': str(tiny_runs / 'hybrid') for s in model.STREAMS}
        folders = {'data_dir': str(tiny_runs / 'data'), 'train_dir': str(tmp_path)}
        flags = {**tiny.FLAGS, **weights, **folders, **flags}
        rows = dict(rows)
        wanted = wanted or {0: list(rows)}
        return extraction.cache_features(flags, stream, rows, tiny.SIZE, wanted)

    return call


@pytest.mark.parametrize('stream', ['spatial', 'motion'])
def test_features_are_fc6_of_the_segments_and_computed_once(
    cache, tiny_runs, written, stream
):
    rows = list(clips.read_index(tiny_runs / 'data').items())[:2]
    cnn = cache(stream, rows, num_segments=3)
    assert sorted(written) == [name for name, _ in rows]
    assert cache(stream, rows, num_segments=3) == cnn and len(written) == 2
    dumped = tiny_runs / 'hybrid/weights' / stream
    assert cnn['weights'] == str(dumped)
    assert cnn['fingerprint'] == dump.fingerprint(dumped)
    name, row = rows[1]
    frames = row['frames']
    if stream == 'spatial':
        starts = np.rint(np.linspace(0, frames - 1, 3)).astype(int)
        images = clips.read_frames(tiny_runs / 'data', name, starts)
    else:
        length = tiny.FLAGS['stack_length']
        starts = np.rint(np.linspace(0, frames - 1 - length, 3)).astype(int)
        images = clips.read_stacks(tiny_runs / 'data', name, starts, length)
    with tf.Graph().as_default(), tf.Session() as session:
        _, points = model.cnn(stream, tf.constant(images), 1000)
        model.load_cnn(session, stream, dumped)
        expected = session.run(points['fc6'])
    (folder,) = features.folders(tiny_runs / 'data', {stream: cnn})[stream]
    found = features.read(folder, name)
    assert found.shape == (3, cnn['width'])
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3)  # float16


@pytest.mark.parametrize('stream', ['spatial', 'motion'])
def test_views_are_crops_and_mirror_images_of_other_moments(cache, tiny_runs, stream):
    name, row = next(iter(clips.read_index(tiny_runs / 'data').items()))
    views = [0, 1, 2, sampling.MIRROR]
    wanted = dict.fromkeys(views, [name])
    cnn = cache(stream, {name: row}, wanted, num_segments=3, view_seed=5)
    (folders,) = features.folders(tiny_runs / 'data', {stream: cnn}).values()
    found = {
        view: features.read(folder, name)
        for view, folder in zip(views, folders, strict=True)
    }
    of_stream = model.STREAMS[stream]
    with tf.Graph().as_default(), tf.Session() as session:
        inputs = tf.placeholder(
            tf.float32, [None, *model.input_shape(stream, tiny.SIZE, 3)]
        )
        _, points = model.cnn(stream, inputs, 1000)
        model.load_cnn(session, stream, cnn['weights'])
        for view in views:
            starts = sampling.view_starts(
                row['frames'], of_stream.span(3), 3, view, name, 5
            )
            stored = sampling.stored_clip(tiny_runs / 'data', row)
            images = of_stream.read(stored, starts, 3).astype(np.float32)
            crop = augmentation.view_crop(view, name, 5)
            images = cropped(images, crop)
            if crop['mirrored'][0]:
                images = images[:, :, ::-1]
                if stream == 'motion':
                    images = np.where(np.arange(6) % 2, images, 256 - images)
            expected = session.run(points['fc6'], {inputs: images})
            np.testing.assert_allclose(found[view], expected, rtol=3e-3, atol=3e-3)
    for view in views[1:]:
        assert not np.array_equal(found[view], found[0])


def cropped(images, crop):
    """The crop of an `augmentation.view_crop`, by OpenCV."""
    size = images.shape[1]
    side = round(size * float(crop['crop_scale'][0]))
    down, along = [(0.5, 0.5), (0, 0), (0, 1), (1, 0), (1, 1)][int(crop['place'][0])]
    top, left = int(down * (size - side)), int(along * (size - side))
    grid = np.linspace(0, side - 1, size, dtype=np.float32)
    x, y = np.meshgrid(left + grid, top + grid)
    planes = np.moveaxis(images, -1, 1)
    remapped = [[cv2.remap(p, x, y, cv2.INTER_LINEAR) for p in ps] for ps in planes]
    return np.moveaxis(np.array(remapped), 1, -1)


def test_views_are_kept_apart_and_computed_once(cache, tiny_runs, written):
    rows = list(clips.read_index(tiny_runs / 'data').items())[:2]
    names = [name for name, _ in rows]
    one = cache('motion', rows, {0: names}, num_segments=3, view_seed=9)
    del written[:]
    wanted = {0: names, 1: names[:1], 2: names[:1]}
    more = cache('motion', rows, wanted, num_segments=3, view_seed=9)
    assert written == 2 * names[:1]
    assert more['features'][0] == one['features'][0]
    assert len(set(more['features'])) == 3
    again = cache('motion', rows, wanted, num_segments=3, view_seed=9)
    assert again == more and len(written) == 2
    other = cache('motion', rows, wanted, num_segments=3, view_seed=8)
    assert other['features'][0] == one['features'][0]
    assert not set(other['features'][1:]) & set(more['features'])


def test_a_cache_is_of_all_that_it_depends_on(cache):
    folders = {stream: cache(stream)['features'] for stream in model.STREAMS}
    for name, value, of in (
        ('num_segments', 4, ['spatial', 'motion']),
        ('stack_length', 2, ['motion']),
        ('norm2', False, ['motion']),
        ('subtract_mean_flow', True, ['motion']),
    ):
        for stream in model.STREAMS:
            changes = {name: value}
            if name == 'stack_length':  # conv1 has other channels
                changes['motion_weights'] = 'random'
            found = cache(stream, **changes)['features']
            assert (found != folders[stream]) == (stream in of), (stream, name)


def test_another_cnn_has_a_cache_of_its_own(cache, tmp_path):
    random = [
        cache('motion', motion_weights='random', train_dir=str(tmp_path / name), seed=n)
        for n, name in enumerate('ab')
    ]
    found = [name for c in (*random, cache('motion')) for name in c['features']]
    assert len(set(found)) == 3
    # the random one is saved at first use, and taken from there again
    assert random[0]['weights'] == str(tmp_path / 'a/weights/motion')
    again = cache('motion', motion_weights='random', train_dir=str(tmp_path / 'a'))
    assert again == random[0]


def test_a_dump_without_fc6_is_refused(cache, tiny_runs, tmp_path, refused):
    whole, part = tiny_runs / 'hybrid/weights/spatial', tmp_path / 'part'
    arrays = [
        (name, np.load(whole / f'{name}.npy'))
        for name in json.loads((whole / 'dump.json').read_text())['arrays']
        if not name.startswith('fc')
    ]
    dump.write(part, 'vgg19', 'a test', arrays)
    refused(
        lambda: cache('spatial', spatial_weights=str(part)),
        f'--spatial_weights={part}: the dump has no fc6',
    )


def test_a_cnn_that_starts_across_modalities(cache, tiny_runs, tmp_path, refused):
    colour = tmp_path / 'colour'
    with tf.Graph().as_default(), tf.Session() as session:
        cnnm.cnn_m_2048(tf.placeholder(tf.uint8, [None, tiny.SIZE, tiny.SIZE, 3]))
        session.run(tf.global_variables_initializer())
        cnnm.save_weights(session, colour, 'cnn_m_2048')
    rows = list(clips.read_index(tiny_runs / 'data').items())[:1]
    given = {'rows': rows, 'motion_weights': str(colour)}
    refused(lambda: cache('motion', **given), '3 input channels', '--cross_modality')
    assert cache('motion', **given, cross_modality=True)['weights'] == str(colour)


def test_no_network_is_built_where_all_is_there(cache, tiny_runs, monkeypatch):
    rows = list(clips.read_index(tiny_runs / 'data').items())[:2]
    cnn = cache('spatial', rows)
    monkeypatch.setattr(model, 'cnn', None)
    assert cache('spatial', rows) == cnn


TASK = '--ps_hosts=c:1 --worker_hosts=a:1,b:1 --job_name=worker --task_index={}'


@pytest.mark.parametrize('shard', ['--shard={}/2', TASK])
def test_shards_fill_the_cache_together(
    shard, undisturbed, data_dir, run_narrow, tmp_path
):
    data = tmp_path / 'data'
    shutil.copytree(data_dir, data, ignore=shutil.ignore_patterns('features'))
    found = []
    for part in '01':
        words = ['--stage=features', '--num_segments=3', *shard.format(part).split()]
        words += training.weights_of(undisturbed[0])
        places = [f'--data_dir={data}', f'--train_dir={tmp_path}/run']
        run_narrow('train.py', *places, *words)
        cnn = training.read_json(tmp_path / 'run')['cnns']['spatial']
        folder = data / 'features' / cnn['features'][0]
        found.append(len(list(folder.rglob('*.npy'))))
    assert 0 < found[0] < found[1] == len(clips.read_index(str(data)))


# -- another sampling rule -------------------------------------------------------------


def middles(count, n):
    """Middles of n segments, where the rule takes both ends."""
    return ((np.arange(n) + 0.5) * count / n).astype(np.int64)


def test_another_sampling_rule_computes_again_and_refuses_what_is_stale(
    tiny_runs, tmp_path, written, monkeypatch, refused
):
    words = [f'--data_dir={tiny_runs}/data', f'--split_dir={tiny_runs}/lists']
    words += [f'--{s}_weights={tiny_runs}/hybrid' for s in model.STREAMS]
    words += ['--num_segments=4', '--stack_length=3', '--lstm_units=4', '--workers=2']
    words += ['--max_steps=2', '--batch_size=2']
    every_clip = sorted(clips.read_index(tiny_runs / 'data'))

    def run(name):
        del written[:]
        programs.call(train, *words, f'--train_dir={tmp_path}/{name}')
        found = runs.read(tmp_path / name)['cnns']
        folders = features.folders(tiny_runs / 'data', found)
        return {s: views[0] for s, views in folders.items()}, sorted(written)

    before, computed = run('before')
    assert computed == sorted(2 * every_clip)
    assert run('again') == (before, [])
    monkeypatch.setattr(sampling, 'evenly_spaced', middles)
    stale = ('was trained with another sampling rule', 'data/sampling.py')
    refused(lambda: run('before'), f'--train_dir={tmp_path}/before', *stale)
    refused(lambda: evaluate.evaluate(str(tmp_path / 'before')), *stale)
    video = f'--video={tiny_runs}/videos'
    refused(
        lambda: programs.call(evaluate, f'--train_dir={tmp_path}/before', video), *stale
    )
    after, computed = run('after')
    assert computed == sorted(2 * every_clip)
    for stream, folder in after.items():
        assert folder != before[stream]
        name = every_clip[0]
        assert not np.array_equal(
            features.read(folder, name), features.read(before[stream], name)
        )
    assert evaluate.evaluate(str(tmp_path / 'after'))['stage'] == 'hybrid'
