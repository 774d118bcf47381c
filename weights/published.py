"""The two networks as they were published: layers, shapes, means.

    missing = published.check(layers, 'vgg19', frame_size=224)

Weight files are compared with these tables before anything is written. The tables come
from the papers and not from vgg.py and cnnm.py, which the tests compare with them.

Source: VGG-19, Simonyan and Zisserman 2015, table 1, column E. CNN-M-2048, Chatfield et
al. 2014, table 1.
"""

TITLES = {'vgg19': 'VGG-19', 'cnnm': 'CNN-M-2048'}
MEAN = (103.939, 116.779, 123.68)  # B, G, R of the data set both were trained on
FC = ('fc6', 'fc7', 'fc8')

# [height, width, in, out] for frames of 224x224 pixels and 1000 classes
SHAPES = {
    'vgg19': {
        'conv1_1': (3, 3, 3, 64),
        'conv1_2': (3, 3, 64, 64),
        'conv2_1': (3, 3, 64, 128),
        'conv2_2': (3, 3, 128, 128),
        'conv3_1': (3, 3, 128, 256),
        'conv3_2': (3, 3, 256, 256),
        'conv3_3': (3, 3, 256, 256),
        'conv3_4': (3, 3, 256, 256),
        'conv4_1': (3, 3, 256, 512),
        'conv4_2': (3, 3, 512, 512),
        'conv4_3': (3, 3, 512, 512),
        'conv4_4': (3, 3, 512, 512),
        'conv5_1': (3, 3, 512, 512),
        'conv5_2': (3, 3, 512, 512),
        'conv5_3': (3, 3, 512, 512),
        'conv5_4': (3, 3, 512, 512),
        'fc6': (7, 7, 512, 4096),
        'fc7': (1, 1, 4096, 4096),
        'fc8': (1, 1, 4096, 1000),
    },
    'cnnm': {
        'conv1': (7, 7, 3, 96),
        'conv2': (5, 5, 96, 256),
        'conv3': (3, 3, 256, 512),
        'conv4': (3, 3, 512, 512),
        'conv5': (3, 3, 512, 512),
        'fc6': (6, 6, 512, 4096),
        'fc7': (1, 1, 4096, 2048),
        'fc8': (1, 1, 2048, 1000),
    },
}


class Mismatch(ValueError):
    """A file that can be read holds something else than it should.

    The text completes 'FILE, a FORMAT, ...': what the file holds, and the way out.
    """


def positions(network, frame_size):
    """Height and width of what enters fc6, for frames of frame_size pixels.

    VGG-19 has five poolings of 2x2 at stride 2. CNN-M-2048 has two convolutions at
    stride 2, 7x7 and 5x5 with one pixel of padding, and three poolings of 3x3 at stride
    2 whose number of windows is rounded up.
    """
    if network == 'vgg19':
        return frame_size // 32
    after_pool1 = ((frame_size - 7) // 2 + 1) // 2
    after_pool2 = ((after_pool1 - 3) // 2 + 1) // 2
    return after_pool2 // 2


def shapes(network, channels=3, classes=1000, frame_size=224):
    """Shapes of a network's weights, as its variables have them.

    Args:
      network: 'vgg19' or 'cnnm'.
      channels: of the input; VGG-19 has 3 only.
      classes: number of classes.
      frame_size: height and width of the input in pixels.

    Returns:
      dict from layer to shape: convolutions [height, width, in, out], fully connected
      layers [in, out]. Biases have the last number as their shape.
    """
    found = {}
    for layer, (height, width, inputs, outputs) in SHAPES[network].items():
        if layer == 'conv1':
            inputs = channels
        if layer == 'fc6':
            height = width = positions(network, frame_size)
        if layer == 'fc8':
            outputs = classes
        if layer in FC:
            found[layer] = height * width * inputs, outputs
        else:
            found[layer] = height, width, inputs, outputs
    return found


def fitting(layers, network, frame_size):
    """The layers of a file that are the network's: all of them, or its first ones.

    Args:
      layers: dict from layer to its arrays, weights and biases in our layout.
      network: 'vgg19' or 'cnnm'.
      frame_size: height and width in pixels that fc6 is for.

    Returns:
      dict from layer to (weights, biases), in the order of the network. Layers of one
      array that the network does not have (PReLU) are left out.

    Raises:
      Mismatch: no first layer, a gap, a layer too many, or one of another shape.
    """
    title, names = TITLES[network], list(SHAPES[network])
    if positions(network, frame_size) < 1:
        raise Mismatch(f'cannot be of --frame_size={frame_size}: {title} needs more')
    if names[0] not in layers:
        first = {name: [shape] for name, shape in shapes(network).items()}
        raise Mismatch(
            f'holds {listing(layers)}; {title} begins with {listing(first, 3)}'
        )
    own = {name: layers[name] for name in names if name in layers}
    check_shapes(own, network, frame_size)
    others = {n: a for n, a in layers.items() if n not in own and len(a) > 1}
    if others:
        raise Mismatch(
            f'holds {span(list(own))} of {title} and {listing(others)}, which {title} '
            f'does not have: convert a file of {title} alone'
        )
    last = names.index(list(own)[-1])
    gap = [name for name in names[:last] if name not in own]
    if gap:
        which = ' (VGG-16 has no such layer)' if gap[0] == 'conv3_4' else ''
        raise Mismatch(
            f'holds {names[last]} of {title} but not {", ".join(gap)} before it{which}'
        )
    return own


def check_shapes(layers, network, frame_size):
    """Raises Mismatch where a layer of the network has other arrays than it should."""
    title, first = TITLES[network], next(iter(SHAPES[network]))
    for name, arrays in layers.items():
        if len(arrays) != 2:
            raise Mismatch(
                f'has {len(arrays)} array{"s" * (len(arrays) != 1)} for {name}, where '
                f'{title} has weights and biases'
            )
    channels = layers[first][0].shape[2] if layers[first][0].ndim == 4 else 3
    classes = layers['fc8'][1].size if 'fc8' in layers else 1000
    expected = shapes(network, channels, classes, frame_size)
    for name, (weights, biases) in layers.items():
        shape = expected[name]
        if name == 'fc6' and weights.shape[1:] == shape[1:] and weights.shape != shape:
            raise Mismatch(
                f'has fc6 {list(weights.shape)} where --frame_size={frame_size} gives '
                f'{list(shape)}: name the frame size that it was trained for'
            )
        if weights.shape != shape or biases.shape != shape[-1:]:
            raise Mismatch(
                f'has {name} of weights {list(weights.shape)} and biases '
                f'{list(biases.shape)}, where {title} has {list(shape)} and '
                f'{list(shape[-1:])}: it is another network'
            )


def listing(layers, most=5):
    """In words, the first layers and how many there are.

    Args:
      layers: dict from layer to its arrays, or to shapes.
      most: number of layers named.
    """
    words = []
    for name, arrays in list(layers.items())[:most]:
        name = name if name.isprintable() else repr(name)
        words.append(f'{name[:60]} {shape_in_words(arrays)}')
    more = len(layers) - len(words)
    return ', '.join(words) + f' and {more} more' * (more > 0) or 'no layers'


def shape_in_words(arrays):
    """[3, 3, 3, 64] of a layer's weights, or how many arrays it has."""
    if len(arrays) > 2 or not arrays:
        return f'of {len(arrays)} arrays'
    return str(list(getattr(arrays[0], 'shape', arrays[0])))


def span(names):
    """'conv4_1 to fc8' of consecutive layers."""
    return names[0] if len(names) == 1 else f'{names[0]} to {names[-1]}'
