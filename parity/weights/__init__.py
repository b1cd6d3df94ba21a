"""Copy weights between models of Keras and PyTorch, in any combination, or through a file.

    from parity import weights

    weights.copy(keras_model, torch_model)
    weights.save(keras_model, "model.safetensors")
    weights.load("model.safetensors", torch_model)

Known layers: Dense (Linear, or a Conv of one pixel); Conv and ConvTranspose in one to three
dimensions, with strides, dilation and groups; DepthwiseConv (a Conv with groups); SeparableConv (a
depthwise Conv and a pointwise one); BatchNormalization (also of SyncBatchNorm and FrozenBatchNorm),
LayerNormalization, GroupNormalization (also of InstanceNorm), RMSNormalization; PReLU; Embedding;
LSTM, GRU (not with `reset_after=False`, which PyTorch does not have), SimpleRNN and Bidirectional
ones; MultiHeadAttention; weights that a layer or module of your own holds itself (a scale, a class
token, positions), if the layout follows from the shape; and kinds added by `register`. Layers with
weights of another kind are refused by name, or left out with `partial=True`. Layers without weights
are ignored, and so are a module's own buffers and the statistics of a Keras Normalization.

Differences between the frameworks, and how they are handled:

- Kernels are transposed. A fused `activation=` of a Keras layer does not matter.
- Keras's `momentum` of BatchNormalization is 1 minus PyTorch's, and its `epsilon` defaults to 1e-3,
  PyTorch's to 1e-5: see `settings` of `copy`.
- PyTorch's running variance is the unbiased one, n/(n - 1) times Keras's. It is copied unchanged,
  and inference is the same; but a training step on n values per channel adds a variance that is
  larger by that factor in PyTorch. `num_batches_tracked` is not changed.
- Keras flattens an image as (height, width, channels), PyTorch as (channels, height, width): the
  rows of a Dense are reordered, by following each element in both models; see `flatten` of `copy`.
- `depth_to_space` of Keras takes channels as (block, block, channels), `nn.PixelShuffle` as
  (channels, block, block): those of the convolution before it are reordered.
- keras.applications' ResNets have a bias before each BatchNormalization, torchvision's have none:
  it is subtracted from the mean of the BatchNormalization.
- PyTorch may compute a weight from others (weight and spectral norm, pruning): it is read as it is
  in eval mode, and cannot be written. Keras's SpectralNormalization changes the kernel itself.
- Keras's strided `same` pads more at the end than before: see `same_padding`.
"""

from parity.weights.layer import WeightsError
from parity.weights.padding import same_padding
from parity.weights.pairing import suggest
from parity.weights.parts import register
from parity.weights.transfer import copy, load, save

__all__ = ["WeightsError", "copy", "load", "register", "same_padding", "save", "suggest"]
