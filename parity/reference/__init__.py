"""The expected values and gradients, with which implementations are compared."""

from pathlib import Path

REFERENCE_PATH = Path(__file__).with_name("record.safetensors")
"""The shipped record of the 50-digit reference."""
