"""The host's part of a launch."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", "3.2", reason="Triton is not installed, or old")

from kernels import F, backend, compiled  # noqa: E402

import segact_torch  # noqa: E402
from segact_torch import _backends  # noqa: E402

POINTERS = ["x", "y", "w", "factors", "out", "gradient", "sums", "value", "slopes", "upstream"]


class Kernel:
    """One of Triton's that only says what is launched: anew, or what was compiled before."""

    fn = "losses"
    arg_names = ("a", "b")

    def __init__(self, signature):
        self.signature, self.launched = signature, []

    def __getitem__(self, grid):
        def launch(*arguments, **options):
            self.launched.append("anew")
            again = {grid: lambda *arguments: self.launched.append("again")}
            return type("Compiled", (dict,), {"src": self})(again)

        return launch


def test_what_was_compiled_is_launched_only_where_it_fits(monkeypatch):
    kernel = Kernel({"a": "*fp32", "b": "constexpr"})
    monkeypatch.setattr(backend.kernels, "losses", kernel)
    backend.rows_of.cache_clear()
    room = torch.zeros(1025)
    x, other = room[:1024], room[1:]
    assert x.data_ptr() % 16 == 0

    def launched(*arguments, **options):
        backend.cross_entropy(*arguments, None, (0,), F("arctan"), **options)
        return kernel.launched.pop()

    assert launched(x, x) == "anew"
    assert launched(x, x) == "again"
    assert launched(x, x, scale=0.5) == "again"
    # aligned otherwise, of other types, with other constants, of another length
    different = [(other, x), (x, other), (x.half(), x), (x, x.int()), (x[:1023], x[:1023])]
    for arguments in different:
        assert launched(*arguments) == "anew"
        assert launched(*arguments) == "again"
    assert launched(x, x, pos_weight=2.0) == "anew"
    assert launched(x, x, gradient=False) == "anew"
    assert launched(x, x) == "again"
    backend.rows_of.cache_clear()


def test_what_takes_other_arguments_is_not_launched_directly(monkeypatch):
    kernel = Kernel({"a": "*fp32"})
    monkeypatch.setattr(backend.kernels, "losses", kernel)
    backend.rows_of.cache_clear()
    x = torch.zeros(1024)
    for _ in range(2):
        backend.cross_entropy(x, x, None, (0,), F("arctan"))
    assert kernel.launched == ["anew", "anew"]
    backend.rows_of.cache_clear()


KERNELS = ("losses", "overlap", "ratio", "overlap_gradient", "rescale", "multiply")


@pytest.fixture
def launched(monkeypatch):
    """The kernels of the losses on CPU tensors, compiled for a GPU and launched nowhere."""
    from launches import launches

    monkeypatch.setattr(_backends.availability, "KERNELS", "triton")
    backend.rows_of.cache_clear()
    with launches(*(getattr(backend.kernels, name) for name in KERNELS)) as driver:
        yield driver.launched
        backend.rows_of.cache_clear()  # compiled kernels, which the driver unloads


STEPS = {
    "binary_cross_entropy": ["losses", "rescale"],
    "mean_squared_error": ["losses", "rescale"],
    "binary_focal_cross_entropy": ["losses", "rescale"],
    "dice": ["overlap", "ratio", "overlap_gradient"],
    "focal_tversky": ["overlap", "ratio", "overlap_gradient"],
    "dice_cross_entropy": ["overlap", "ratio", "overlap_gradient"],
}


@compiled
@pytest.mark.parametrize("loss", STEPS)
def test_every_step_launches_its_kernels(launched, loss):
    """Triton does more with a kernel than to compile it, and more again at the second launch."""
    function = getattr(segact_torch, loss)
    for size, dtype in itertools.product((512, 512, 37), (torch.float32, torch.float16)):
        x = torch.zeros(4, size, dtype=dtype, requires_grad=True)
        y = torch.zeros(4, size, dtype=torch.uint8)
        function(x, y, "arctan").backward()
        assert [name for name, _ in launched] == STEPS[loss]
        for name, arguments in launched:
            names = getattr(backend.kernels, name).arg_names
            assert len(arguments) == len(names)
            tensors = [isinstance(a, torch.Tensor) for a in arguments]
            assert tensors == [n in POINTERS for n in names]
        launched.clear()


OF_NUMBERS = [
    ("binary_cross_entropy", {"pos_weight": 2, "label_smoothing": 0.25}),
    ("binary_focal_cross_entropy", {"gamma": 1.5, "alpha": 0.25, "label_smoothing": 0.25}),
    ("binary_focal_cross_entropy", {"gamma": 2}),
    ("focal_tversky", {"alpha": 0.25, "beta": 0.75, "gamma": 1.5, "smooth": 1}),
    ("dice_cross_entropy", {"smooth": 1, "lambda_ce": 0.5, "label_smoothing": 0.25}),
]


@compiled
@pytest.mark.parametrize("number", [np.float32, np.float64])
@pytest.mark.parametrize(("loss", "options"), OF_NUMBERS, ids=str)
def test_numbers_may_be_those_of_numpy(launched, loss, options, number):
    x = torch.zeros(4, 512, requires_grad=True)
    options = {name: number(value) for name, value in options.items()}
    activation = F("arctan", epsilon=number(0.25))
    getattr(segact_torch, loss)(x, torch.zeros(4, 512), activation, **options).backward()
    assert [name for name, _ in launched] == STEPS[loss]


@compiled
def test_no_constant_differs_from_itself():
    """Triton compares them before a launch, and refuses one that changed."""
    from triton.language import constexpr

    from segact_torch._backends.triton import activations, arithmetic, kernels

    found = [
        value for module in (arithmetic, activations, kernels) for value in vars(module).values()
    ]
    constants = [one.value for one in found if isinstance(one, constexpr)]
    assert len(constants) > 3
    assert all(value == value for value in constants)


@compiled
def test_elementwise_losses_launch_their_kernels(launched):
    x = torch.zeros(4, 512, requires_grad=True)
    for _ in range(2):
        each = segact_torch.binary_cross_entropy(x, torch.zeros(4, 512), reduction="none")
        each.square().sum().backward()
    assert [name for name, _ in launched] == ["losses", "multiply"] * 2


@compiled
def test_what_is_upstream_of_a_sum_is_not_written_for_each_element(launched):
    x = torch.zeros(4, 512, requires_grad=True)
    for _ in range(2):
        each = segact_torch.binary_cross_entropy(x, torch.zeros(4, 512), reduction="none")
        each.sum().backward()
        assert launched[-1][1][1].numel() == 1
    assert [name for name, _ in launched] == ["losses", "rescale"] * 2
