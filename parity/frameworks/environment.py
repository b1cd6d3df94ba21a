"""The environment variables that the process of a framework is started with."""


def environment(
    framework: str,
    device: str = "cpu",
    threads: int = 0,
    *,
    float64: bool = False,
    onednn: bool = False,
) -> dict[str, str]:
    """The variables that differ from those of this process.

    Args:
        framework: the name of an implementation, such as "keras-jax"; "tf-keras"; or empty for
            whatever a user's function is of, with Keras on the backend it has here.
        device: "cpu" hides GPUs; "cuda" leaves the device's memory to be shared.
        threads: how many a framework may use; 0 leaves that to it.
        float64: whether JAX computes in float64 what is given so.
        onednn: whether TensorFlow may use oneDNN, whose sums differ from one machine to the next.
    """
    # tf-keras: TensorFlow may import Keras 3 as well
    backend = "tensorflow" if framework == "tf-keras" else framework.partition("keras-")[2]
    found = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    if threads:
        libraries = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        found |= dict.fromkeys((*libraries, "TF_NUM_INTRAOP_THREADS"), str(threads))
        found["TF_NUM_INTEROP_THREADS"] = "1"
    if not onednn:
        found["TF_ENABLE_ONEDNN_OPTS"] = "0"
    if backend:
        found["KERAS_BACKEND"] = backend
    if float64 and backend == "jax":
        found["JAX_ENABLE_X64"] = "1"
    if device == "cpu" or backend == "jax":
        found["JAX_PLATFORMS"] = device
    if device == "cpu":
        found["CUDA_VISIBLE_DEVICES"] = ""
    else:  # several share the device, and none is to take its memory beforehand
        found["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        found["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    return found
