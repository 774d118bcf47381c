"""How TensorFlow calculates on a processor: with oneDNN, in float32 or in bfloat16.

oneDNN is switched on by `command_line.tensorflow_in_silence`, since TensorFlow reads
that setting while it is imported.
"""

import os
import re

import tensorflow.compat.v1 as tf


def config(bfloat16):
    """tf.ConfigProto of a process that trains.

    Args:
      bfloat16: whether TensorFlow may round what convolutions and matrix products on
        a processor take and give to bfloat16 (8 bits of mantissa); weights, losses
        and updates stay float32.
    """
    found = tf.ConfigProto(allow_soft_placement=True)  # as where none is given
    if bfloat16:
        rewrites = found.graph_options.rewrite_options
        rewrites.auto_mixed_precision_onednn_bfloat16 = rewrites.ON
    return found


def lack_of_bfloat16():
    """What TensorFlow misses here to be faster with bfloat16; '' where it is.

    Without oneDNN it ignores the setting, on other processors it emulates it.
    """
    if os.environ['TF_ENABLE_ONEDNN_OPTS'].lower() in ('0', 'false'):
        return 'oneDNN: take TF_ENABLE_ONEDNN_OPTS=0 away'
    try:
        with open('/proc/cpuinfo', encoding='ascii', errors='replace') as file:
            known = re.search(r'^flags\s*:(.*)', file.read(), re.M)
    except FileNotFoundError:  # not Linux
        known = None
    if known and {'avx512_bf16', 'amx_bf16'} & set(known[1].split()):
        return ''
    return 'a processor with avx512_bf16 or amx_bf16, see /proc/cpuinfo: leave it out'
