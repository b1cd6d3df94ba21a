"""Binary segmentation with any output activation and any loss, in both frameworks."""
