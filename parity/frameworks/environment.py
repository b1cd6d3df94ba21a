"""The environment variables for the process of a framework."""


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
        framework: the name of an implementation, such as "keras-jax"; "tf-keras"; or empty for a
            user's function of any framework, with Keras on the backend that it has here.
        device: "cpu" hides GPUs; "cuda" does not reserve the memory of the device.
        threads: the number of threads of a framework; 0 is its own default.
        float64: whether JAX keeps float64 arrays.
        onednn: whether TensorFlow may use oneDNN, whose sums differ between machines.
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
    else:  # several processes share the device, so none may reserve its memory
        found["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        found["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    return found
