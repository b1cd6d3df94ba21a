"""`python -m segact_torch`: which backends the losses can use here."""

from pathlib import Path

import torch

import segact_torch

NAMES = {"cpu": "compiled loops for a CPU", "triton": "Triton kernels for a GPU"}

print(f"segact_torch {segact_torch.__version__} in {Path(segact_torch.__file__).parent}")
print(f"torch {torch.__version__}")
for name, state in segact_torch.backends().items():
    print(f"{NAMES[name]}: {state}")
