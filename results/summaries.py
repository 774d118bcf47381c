"""What TensorBoard shows of a run: scalars, pictures, confusion, histograms, the graph.

    writer = tf.summary.FileWriter(train_dir, graph)
    summaries.scalars(writer, {'loss': 1.5}, step)

Pictures are encoded outside the graph, so that the graph shows the method alone.
"""

import io

import cv2
import numpy as np
import tensorflow.compat.v1 as tf

from data.preprocessing import preview
from results import figures
from results import measures

SHOWN = 4  # samples of a batch


def scalars(writer, values, step):
    """Numbers by name; `step` is the axis, so it is no curve."""
    values = [
        tf.Summary.Value(tag=name, simple_value=value)
        for name, value in values.items()
        if name != 'step'
    ]
    writer.add_summary(tf.Summary(value=values), step)


def samples(writer, batch, step):
    """The first frames and flow fields of a batch, as they were stored.

    Args:
      writer: tf.summary.FileWriter.
      batch: dict of the graph's inputs; arrays uint8 [..., H, W, 3 or 2L] are shown,
        flow in the usual colours, one field of each stack.
      step: int.
    """
    for name, values in batch.items():
        if getattr(values, 'dtype', None) != np.uint8:
            continue
        for place, picture in enumerate(values[:SHOWN]):
            picture = picture if picture.ndim == 3 else picture[len(picture) // 2]
            if picture.shape[-1] != 3:
                picture = preview.flow_to_color(picture[..., :2])
            _, png = cv2.imencode('.png', picture)
            image(writer, f'{name}/{place}', png.tobytes(), step)


def confusion(writer, predictions, labels, class_names, step):
    """The confusion matrix as a picture.

    Args:
      writer: tf.summary.FileWriter.
      predictions, labels: int [N].
      class_names: list of C.
      step: int.
    """
    matrix = measures.confusion_matrix(predictions, labels, len(class_names))
    file = io.BytesIO()
    figures.draw_confusion(file, matrix, class_names, f'step {step}')
    image(writer, 'confusion', file.getvalue(), step)


def image(writer, tag, png, step):
    """One picture, given as the bytes of a PNG file."""
    value = tf.Summary.Value(
        tag=tag, image=tf.Summary.Image(encoded_image_string=png, colorspace=3)
    )
    writer.add_summary(tf.Summary(value=[value]), step)


def histograms(variables):
    """The op that gives histograms of the variables."""
    return tf.summary.merge(
        # the variable's own name is taken, and would become weights_1
        [tf.summary.histogram(f'{v.op.name}/values', v) for v in variables],
        name='train/histograms',
    )
