"""Carry weights between models of Keras and PyTorch, in any combination, and through a file.

    from parity import weights

    weights.copy(keras_model, torch_model)
    weights.save(keras_model, "model.safetensors")
    weights.load("model.safetensors", torch_model)

Known layers: Dense (Linear, or a Conv of one pixel); Conv and ConvTranspose in one to three
dimensions, with strides, dilation and groups; DepthwiseConv (a Conv with groups); SeparableConv (a
depthwise Conv and a pointwise one); BatchNormalization (also of SyncBatchNorm and FrozenBatchNorm),
LayerNormalization, GroupNormalization (also of InstanceNorm), RMSNormalization; PReLU; Embedding;
LSTM, GRU (not with `reset_after=False`, which PyTorch's is not), SimpleRNN and Bidirectional ones;
MultiHeadAttention; weights that a layer or module of your own holds itself (a scale, a class token,
positions), if their shape tells their layout; and what `register` teaches. Layers with weights of
another kind are refused by name, or left out with `partial=True`; layers without weights are not
looked at, nor are a module's own buffers or what a Keras Normalization has adapted to.

What the frameworks do differently, and what is done about it:

- Kernels are transposed. A fused `activation=` of a Keras layer does not matter.
- Keras's `momentum` of BatchNormalization is 1 minus PyTorch's, and its `epsilon` defaults to 1e-3,
  PyTorch's to 1e-5: see `settings` of `copy`.
- PyTorch's running variance is that of n/(n - 1), Keras's is not. The numbers that are carried over
  are the same and give the same inference; one training step on n values per channel then moves
  the two apart by that factor in what it adds. `num_batches_tracked` is left alone.
- Keras flattens an image as (height, width, channels), PyTorch as (channels, height, width): the
  rows of a Dense are reordered, by where each element goes in both models; see `flatten` of `copy`.
- keras.applications' ResNets have a bias before each BatchNormalization, torchvision's have none:
  it goes into the mean that the BatchNormalization takes off.
- PyTorch may compute a weight from others (weight and spectral norm, pruning): what it computes in
  eval mode is read, and it cannot be written. Keras's SpectralNormalization changes the kernel.
- Keras's strided `same` pads more at the end than before: see `same_padding`.
"""

from parity.weights.layer import WeightsError
from parity.weights.padding import same_padding
from parity.weights.pairing import suggest
from parity.weights.parts import register
from parity.weights.transfer import copy, load, save

__all__ = ["WeightsError", "copy", "load", "register", "same_padding", "save", "suggest"]
