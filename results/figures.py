"""Figures of what a run is worth: confusion, timelines, overlays, class activation.

    figures.draw_confusion('confusion.png', matrix, class_names, 'hybrid, 112 clips')

Colours are BGR where pixels come in and go out, as everywhere outside the graph.
"""

import functools

import cv2
import matplotlib

matplotlib.use('Agg')
import numpy as np
from matplotlib import colors
from matplotlib import pyplot

import model
from data import sampling
from data.preprocessing import preview
from results import files
from results import fonts

READABLE = 20  # classes up to which counts fit into the cells of a confusion matrix
SHOWN = 5  # steps of an explanation
matplotlib.rcParams['text.parse_math'] = False  # a class may have a $ in its name


def draw_confusion(path, matrix, class_names, title):
    """Draws the confusion matrix as shares of each row; readable at 10 and 101 classes.

    Args:
      path: .png to write, or a binary file.
      matrix: int [C, C], rows = true classes.
      class_names: list of C.
      title: text above.
    """
    class_names, note = fonts.drawable(class_names)
    matrix = np.asarray(matrix)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    few = len(class_names) <= READABLE
    side = 3 + (0.45 if few else 0.17) * len(class_names)
    figure, axes = pyplot.subplots(figsize=(side + 1, side), layout='constrained')
    # among many cells the rare ones must still be seen
    scale = colors.PowerNorm(1 if few else 0.5, vmin=0, vmax=1)
    image = axes.imshow(shares, cmap='Blues', norm=scale)
    ticks = np.arange(len(class_names))
    axes.set_xticks(ticks, class_names, rotation=90, fontsize=9 if few else 7)
    axes.set_yticks(ticks, class_names, fontsize=9 if few else 7)
    axes.set_xlabel('predicted class', fontsize=10 if few else 16)
    axes.set_ylabel('true class', fontsize=10 if few else 16)
    axes.set_title(title, fontsize=11 if few else 18)
    if few:
        for (row, column), count in np.ndenumerate(matrix):
            color = 'white' if shares[row, column] > 0.5 else 'black'
            style = {'ha': 'center', 'va': 'center', 'fontsize': 8, 'color': color}
            if count:
                axes.text(column, row, str(count), **style)
    else:  # lines by which the eye finds a cell's names
        axes.set_xticks(ticks - 0.5, minor=True)
        axes.set_yticks(ticks - 0.5, minor=True)
        axes.grid(which='minor', color='0.9', linewidth=0.4)
        axes.tick_params(which='minor', length=0)
    figure.colorbar(image, shrink=0.6, label='share of the true class')
    save(figure, path, note)


def draw_reliability(path, calibration):
    """Draws accuracy over confidence; on the diagonal probabilities are right.

    Args:
      path: .png to write, or a binary file.
      calibration: of calibration.measure.
    """
    bins = calibration['bins']
    figure, (axes, counts) = pyplot.subplots(
        2, figsize=(4.5, 5), height_ratios=[4, 1], sharex=True, layout='constrained'
    )
    left = [row['from'] for row in bins]
    widths = [row['to'] - row['from'] for row in bins]
    style = {'width': widths, 'align': 'edge', 'edgecolor': 'white'}
    axes.bar(left, [row['accuracy'] for row in bins], **style)
    axes.plot([0, 1], [0, 1], '--', color='black', linewidth=1)
    confidence = [row['confidence'] for row in bins]
    axes.plot(confidence, [row['accuracy'] for row in bins], 'o', color='C1', ms=4)
    axes.set(ylabel='accuracy', xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f'expected calibration error {calibration["ece"]:.1%}', fontsize=11)
    counts.bar(left, [row['clips'] for row in bins], color='0.6', **style)
    counts.set(xlabel='probability of the predicted class', ylabel='clips')
    save(figure, path, '')


def save(figure, path, note):
    """Saves a figure, with a note below it, and closes it.

    Args:
      figure: of pyplot.
      path: .png to write, or a binary file.
      note: of `fonts.drawable`.
    """
    if note:
        figure.supxlabel(note, fontsize=7, wrap=True)
    if hasattr(path, 'write'):
        figure.savefig(path, dpi=110, format='png')
    else:
        with files.whole(path, 'wb') as file:
            figure.savefig(file, dpi=110, format='png')
    pyplot.close(figure)


def draw_timeline(path, result):
    """Draws the probability of each class that is ever the best, over a video's time; 0
    where it is not among a window's five best.

    Args:
      path: .png to write.
      result: of predict.predict_video.
    """
    timeline = result['timeline']
    winners = [window['best'][0][0] for window in timeline]
    names = list(dict.fromkeys(winners))
    figure, axes = pyplot.subplots(
        figsize=(10, 1.6 + 0.35 * len(names)), layout='constrained'
    )
    for row, name in enumerate(names):
        for window, winner in zip(timeline, winners, strict=True):
            probability = dict(window['best']).get(name, 0)
            start, end = window['from_seconds'], window['to_seconds']
            axes.broken_barh(
                [(start, end - start)],
                (row - 0.4, 0.8),
                facecolor=pyplot.get_cmap('Blues')(probability),
                edgecolor='black' if winner == name else 'none',
                linewidth=0.6,
            )
    labels, note = fonts.drawable(names)
    axes.set_yticks(range(len(names)), labels, fontsize=8)
    axes.set(xlabel='seconds', xlim=(0, timeline[-1]['to_seconds']))
    axes.set_title('probability of each class over time, framed where it is the best')
    axes.invert_yaxis()
    save(figure, path, note)


def draw_overlay(frame, name, probability, field, bound):
    """Draws class, probability bar and a flow inset into a frame, in place.

    Args:
      frame: uint8 [H, W, 3].
      name: the class.
      probability: 0..1.
      field: stored flow uint8 [h, w, 2], or None.
      bound: of the stored flow, in pixels.
    """
    height, width = frame.shape[:2]
    bar = max(14, height // 12)
    frame[:bar] //= 3
    filled = round(width * probability)
    frame[bar - max(2, bar // 8) : bar, :filled] = (90, 220, 90)
    letters = text_mask(f'{name} {probability:.0%}', bar * 0.62)
    if letters.shape[1] > width - 6:
        height_left = max(1, round(len(letters) * (width - 6) / letters.shape[1]))
        letters = cv2.resize(letters, (width - 6, height_left))
    top = max(0, (bar - bar // 8 - len(letters)) // 2)
    under = frame[top : top + len(letters), 3 : 3 + letters.shape[1]]
    np.maximum(under, letters[: len(under), : under.shape[1], None], out=under)
    if field is not None:
        inset_height, inset_width = height // 4, width // 4
        inset = preview.flow_to_color(field, bound=bound)
        inset = cv2.resize(inset, (inset_width, inset_height))
        frame[height - inset_height :, width - inset_width :] = inset


def as_image(values, flow):
    """One input of a CNN, uint8 [H, W, channels], as an image [H, W, 3]: the first
    field of flow in the usual colours, the first three channels of anything else."""
    return preview.flow_to_color(values[..., :2]) if flow else values[..., :3]


@functools.lru_cache(maxsize=16)
def text_mask(text, size):
    """White text on black, uint8 [h, w], without a border; `size` in pixels.

    Drawn by matplotlib, since OpenCV does not join the letters of Arabic.
    """
    (text,), _ = fonts.drawable([text])
    figure = pyplot.figure(dpi=72, facecolor='black')
    drawn = figure.text(0, 0, text, fontsize=size, color='white')
    width, height = np.ceil(drawn.get_window_extent().size).astype(int)
    figure.set_size_inches((width + 2) / 72, (height + 2) / 72)
    drawn.set(position=(1 / (width + 2), 0.5), va='center')
    figure.canvas.draw()
    mask = np.asarray(figure.canvas.buffer_rgba())[..., 0].copy()
    pyplot.close(figure)
    return mask


def heat(image, place_map, largest):
    """An image [H, W, 3] under its class activation map float [h, w]."""
    size = image.shape[1::-1]
    strength = np.uint8(255 * place_map / max(largest, 1e-12))
    warmth = cv2.applyColorMap(
        cv2.resize(strength, size, interpolation=cv2.INTER_CUBIC), cv2.COLORMAP_JET
    )
    return cv2.addWeighted(image, 0.55, warmth, 0.45, 0)


def draw_explanation(path, pixels, maps, title):
    """Draws inputs of the CNNs beside where the CNNs found the class in them.

    Args:
      path: .png to write.
      pixels: dict stream -> uint8 [T, H, W, channels].
      maps: dict stream -> float [T, h, w] class activation maps.
      title: the class.
    """
    steps = len(next(iter(pixels.values())))
    chosen = sampling.evenly_spaced(steps, min(SHOWN, steps))
    rows = []
    for stream, images in pixels.items():
        flow = model.STREAMS[stream].flow
        shown = [as_image(images[step], flow) for step in chosen]
        largest = maps[stream].max()
        heats = [
            heat(image, maps[stream][step], largest)
            for image, step in zip(shown, chosen, strict=True)
        ]
        rows += [(stream, shown), (f'{stream}: evidence', heats)]
    figure, axes = pyplot.subplots(
        len(rows),
        len(chosen),
        figsize=(1.9 * len(chosen), 2.0 * len(rows) + 0.5),
        layout='constrained',
        squeeze=False,
    )
    for (name, images), row in zip(rows, axes, strict=True):
        for image, place in zip(images, row, strict=True):
            place.imshow(image[..., ::-1])
            place.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, fontsize=8)
    for step, place in zip(chosen, axes[0], strict=True):
        place.set_title(f'step {step + 1} of {steps}', fontsize=8)
    (title,), note = fonts.drawable([title])
    figure.suptitle(title)
    save(figure, path, note)
