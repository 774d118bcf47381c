"""A run as one graph from pixels: it is the run, its maps, its export."""

import narrow
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny

import evaluate
import model
from data import batches
from data import clips
from data import feeds
from data import splits
from results import inference
from results import runs
from results import scoring

# Stored clips are the same to both, so what is left is rounding, and the float16 of
# cached features, which rounding may tip over.
TOLERANCE = 2e-4


@pytest.fixture(scope='module', autouse=True)
def narrow_networks(tiny_runs):
    """Narrow networks for the whole file; the runs are made before, so as not twice."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        narrow.patch(monkeypatch)
        yield


def found(tiny_runs, stage):
    """(run, checkpoint) of a tiny run."""
    return evaluate.find_run(tiny_runs / stage)[:2]


@pytest.fixture(scope='module')
def stored_scores(tiny_runs):
    """(test examples, rows, the hybrid's probabilities by evaluation)."""
    run, checkpoint = found(tiny_runs, 'hybrid')
    rows = clips.read_index(tiny_runs / 'data')
    examples = splits.load(rows, run['flags']['split_dir']).test
    given = (str(tiny_runs / 'data'), examples, rows, scoring.Protocol(), 16, 1)
    return examples, rows, scoring.score(run, checkpoint, *given)['video']


def pixels_of(tiny_runs, examples, rows):
    """What the exported graph is fed for stored clips: dict name -> array."""
    read = feeds.segment_reader(tiny_runs / 'data', model.STREAMS, 5, 3)
    of_clips = [read(rows[example.clip]) for example in examples]
    pixels = {}
    for stream in model.STREAMS:
        values = [clip[stream] for clip in of_clips]
        pixels[stream], pixels['lengths'] = batches.pad(values)
    return pixels


def test_export_reproduces_the_run(tiny_runs, stored_scores, tmp_path):
    examples, rows, expected = stored_scores
    run, checkpoint = found(tiny_runs, 'hybrid')
    saved = str(tmp_path / 'saved')
    assert inference.export(saved, run, checkpoint) <= inference.TOLERANCE
    pixels = pixels_of(tiny_runs, examples, rows)
    given = inference.reloaded(saved, pixels)
    np.testing.assert_allclose(given['probabilities'], expected, atol=TOLERANCE)
    assert [name.decode() for name in given['class_names']] == list(tiny.CLASSES)
    assert np.ptp(expected, axis=0).max() > 100 * TOLERANCE  # clips differ by more


@pytest.mark.parametrize('stage', ['motion', 'hybrid'])
def test_padding_does_not_matter(stage, tiny_runs):
    """What comes after a clip's valid steps changes nothing, in either kind of run."""
    random = np.random.default_rng(0)
    with tf.Graph().as_default(), tf.Session() as session:
        net = inference.network(session, *found(tiny_runs, stage))
        feed = inference.trial_pixels(net.inputs)
        probabilities = []
        for _ in range(2):
            given = {net.inputs[name]: value for name, value in feed.items()}
            probabilities.append(session.run(net.probabilities, given))
            for name in feed.keys() - {'lengths'}:
                feed[name][1, -1] = random.integers(0, 256, feed[name].shape[2:])
    np.testing.assert_allclose(*probabilities, atol=1e-6)


def test_a_stream_alone_is_the_mean_of_its_softmaxes(tiny_runs):
    with tf.Graph().as_default(), tf.Session() as session:
        net = inference.network(session, *found(tiny_runs, 'motion'))
        assert set(net.inputs) == {'motion', 'lengths'}
        pixels = inference.trial_pixels(net.inputs)['motion'][0]
        feed = inference.feed_of(net, {'motion': pixels})
        (whole,) = session.run(net.probabilities, feed)
        alone = [
            session.run(net.probabilities, inference.feed_of(net, {'motion': x[None]}))
            for x in pixels
        ]
    np.testing.assert_allclose(whole, np.concatenate(alone).mean(axis=0), atol=1e-6)


# -- maps ------------------------------------------------------------------------------


def test_class_activation_maps_of_a_linear_head():
    """After mean pooling and a matrix, they are the class activation maps of Zhou et
    al. (CVPR 2016): relu(sum_d W_dc A_d) / places."""
    random = np.random.default_rng(0)
    maps = random.normal(size=(3, 4, 5, 6)).astype(np.float32)
    weights = random.normal(size=(6, 7)).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        fed = tf.placeholder(tf.float32, [None, 4, 5, 6])
        scores = tf.reduce_mean(fed, axis=[1, 2]) @ weights
        score = tf.reduce_sum(scores[:, 2])
        given = session.run(inference.class_activation_maps(score, fed), {fed: maps})
    expected = np.maximum(maps @ weights[:, 2], 0) / 20
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-6)


def test_maps_are_of_each_step_and_stream(tiny_runs):
    with tf.Graph().as_default(), tf.Session() as session:
        net = inference.network(session, *found(tiny_runs, 'hybrid'), explained=True)
        pixels = inference.trial_pixels(net.inputs)
        pixels = {stream: pixels[stream][0] for stream in model.STREAMS}
        feed = inference.feed_of(net, pixels)
        maps = [session.run(net.maps, {**feed, net.label: label}) for label in (0, 1)]
    for stream in model.STREAMS:
        for of_label in maps:
            assert of_label[stream].shape[0] == inference.STEPS
            assert of_label[stream].min() >= 0
    # what speaks for one class does not speak for the other
    assert any(not np.array_equal(maps[0][s], maps[1][s]) for s in model.STREAMS)


# -- refusals --------------------------------------------------------------------------


def refused(match, directory, run, checkpoint):
    """Export says `match` in one line."""
    with pytest.raises(ValueError, match=match) as error:
        inference.export(str(directory), run, checkpoint)
    assert '\n' not in str(error.value)


def test_dump_that_is_not_the_runs(tiny_runs, tmp_path):
    run, checkpoint = found(tiny_runs, 'hybrid')
    run['cnns']['spatial']['fingerprint'] = 'another'
    expected = 'the dump is not the one the run was trained with; .* --spatial_weights'
    refused(expected, tmp_path / 'saved', run, checkpoint)
    assert not (tmp_path / 'saved').exists()
    run['cnns']['spatial']['weights'] = str(tmp_path / 'gone')
    expected = 'gone is not there any more: .* by --spatial_weights'
    refused(expected, tmp_path / 'saved', run, checkpoint)


def test_variables_in_neither_checkpoint_nor_dump(tiny_runs):
    run, checkpoint = found(tiny_runs, 'hybrid')
    run['cnns']['spatial']['weights'] = None
    with tf.Graph().as_default(), tf.Session() as session:
        with pytest.raises(ValueError, match='variables are missing, such as spatial/'):
            inference.network(session, run, checkpoint)


def test_export_over_a_folder(tiny_runs, tmp_path):
    refused('is there already: name a new', tmp_path, *found(tiny_runs, 'hybrid'))


def test_export_that_differs(tiny_runs, tmp_path, monkeypatch):
    right = inference.reloaded
    monkeypatch.setattr(
        inference,
        'reloaded',
        lambda *given: {'probabilities': right(*given)['probabilities'] + 2e-5},
    )
    run, checkpoint = found(tiny_runs, 'hybrid')
    refused('differs from the run by 2e-05', tmp_path / 'saved', run, checkpoint)


def test_streams_of_a_run_are_its_inputs(tiny_runs):
    for stage, expected in (('motion', {'motion'}), ('hybrid', set(model.STREAMS))):
        architecture = runs.architecture(runs.read(tiny_runs / stage))
        with tf.Graph().as_default():
            inputs, probabilities, _ = inference.pixel_classifier(stage, architecture)
        assert set(inputs) == expected | {'lengths'}
        assert probabilities.shape.as_list() == [None, len(tiny.CLASSES)]
