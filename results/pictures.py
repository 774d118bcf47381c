"""Pictures of what a run is worth."""

import matplotlib

matplotlib.use('Agg')
import numpy as np
from matplotlib import pyplot


def draw_confusion(path, matrix, class_names, title):
    """Draws the confusion matrix as shares of each row; readable at 10 and 101 classes.

    Args:
      path: .png to write.
      matrix: int [C, C], rows = classes shown.
      class_names: list of C.
      title: text above.
    """
    matrix = np.asarray(matrix)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = max(5.0, 0.2 * len(class_names) + 2)
    figure, axes = pyplot.subplots(figsize=(side, side), layout='constrained')
    picture = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    ticks = np.arange(len(class_names))
    small = 9 if len(class_names) <= 20 else 7
    axes.set_xticks(ticks, class_names, rotation=90, fontsize=small)
    axes.set_yticks(ticks, class_names, fontsize=small)
    axes.set(xlabel='predicted', ylabel='shown', title=title)
    if len(class_names) <= 20:
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                dark = shares[row, column] > 0.5
                axes.text(
                    column,
                    row,
                    str(count),
                    ha='center',
                    va='center',
                    fontsize=8,
                    color='white' if dark else 'black',
                )
    figure.colorbar(picture, shrink=0.7, label='share of the class shown')
    figure.savefig(path, dpi=120, format='png')
    pyplot.close(figure)
