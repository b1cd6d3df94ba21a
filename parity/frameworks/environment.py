"""What the process of a framework is started with."""


def environment(name: str, device: str, threads: int) -> dict[str, str]:
    """The environment variables of the process of an implementation."""
    settings = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
    if name == "keras-jax":
        settings["JAX_ENABLE_X64"] = "1"
        settings["JAX_PLATFORMS"] = device
    if name.startswith("keras-"):
        settings["KERAS_BACKEND"] = name.removeprefix("keras-")
    if device == "cpu":
        settings["CUDA_VISIBLE_DEVICES"] = ""
    else:  # several share the device, and none is to take its memory beforehand
        settings["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        settings["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    return settings
