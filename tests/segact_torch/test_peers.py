"""The sigmoid's losses against those of PyTorch, MONAI and segmentation_models_pytorch."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import segact_torch  # noqa: E402

F = torch.nn.functional


@pytest.fixture
def batch(rng):
    """N, C, H, W: two samples of three labels; every label occurs in every sample."""
    x = torch.tensor(rng.normal(0, 2, (2, 3, 8, 8)))
    y = torch.tensor(rng.random((2, 3, 8, 8)) < 0.4).double()
    assert (y.sum((2, 3)) > 0).all()
    return x, y


def assert_equal(ours, theirs, x, y, rel=1e-12):
    """Value and gradient."""
    results = []
    for loss in (ours, theirs):
        raw = x.clone().requires_grad_()
        value = loss(raw, y)
        results.append((value.detach(), *torch.autograd.grad(value, raw)))
    (value, grad), (expected, slope) = results
    assert value.item() == pytest.approx(expected.item(), rel=rel)
    torch.testing.assert_close(grad, slope, rtol=0, atol=10 * rel * slope.abs().max().item())


def test_cross_entropy(batch, rng):
    x, y = batch
    w = torch.tensor(rng.random((2, 1, 8, 8)))
    pos_weight = torch.tensor([0.5, 1.0, 4.0]).double().reshape(3, 1, 1)
    theirs = torch.nn.BCEWithLogitsLoss(weight=w, pos_weight=pos_weight)
    module = segact_torch.BinaryCrossEntropyLoss(pos_weight=pos_weight)
    assert_equal(lambda x, y: module(x, y, w), theirs, x, y)
    for reduction in ("mean", "sum"):
        assert_equal(
            segact_torch.BinaryCrossEntropyLoss(reduction=reduction),
            torch.nn.BCEWithLogitsLoss(reduction=reduction),
            x,
            y,
        )


def test_squared_error(batch):
    assert_equal(
        segact_torch.MeanSquaredErrorLoss(), lambda x, y: F.mse_loss(x.sigmoid(), y), *batch
    )


# --- MONAI: losses per sample and channel, smooth 1e-5


@pytest.fixture
def monai():
    return pytest.importorskip("monai.losses", reason="MONAI is not installed")


APART = {"per_sample": True, "channel_axis": 1, "smooth": 1e-5}


def test_monai_overlap(monai, batch):
    pairs = [
        (segact_torch.DiceLoss(**APART), monai.DiceLoss(sigmoid=True)),
        (
            segact_torch.TverskyLoss(alpha=0.3, beta=0.7, **APART),
            monai.TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7),
        ),
        (  # whose smooth is added to twice the intersection
            segact_torch.JaccardLoss(**{**APART, "smooth": 0.5e-5}),
            monai.DiceLoss(sigmoid=True, jaccard=True),
        ),
        (
            segact_torch.DiceLoss(channel_axis=1, smooth=1e-5),
            monai.DiceLoss(sigmoid=True, batch=True),
        ),
    ]
    for ours, theirs in pairs:
        assert_equal(ours, theirs, *batch)


def test_monai_with_another_activation(monai, batch):
    assert_equal(
        segact_torch.DiceLoss("arctan", **APART),
        monai.DiceLoss(other_act=segact_torch.arctan),
        *batch,
    )


def test_monai_focal(monai, batch):
    for gamma, alpha in ((2.0, None), (1.5, 0.25)):
        assert_equal(
            segact_torch.BinaryFocalCrossEntropyLoss(gamma=gamma, alpha=alpha),
            monai.FocalLoss(gamma=gamma, alpha=alpha),
            *batch,
            rel=1e-6,  # MONAI computes in float32
        )


def test_monai_dice_and_cross_entropy(monai, batch):
    """Of one label: with several MONAI takes the classes' softmax."""
    x, y = (t[:, :1] for t in batch)
    assert_equal(
        segact_torch.DiceCrossEntropyLoss(lambda_dice=0.5, lambda_ce=2.0, **APART),
        monai.DiceCELoss(sigmoid=True, lambda_dice=0.5, lambda_ce=2.0),
        x,
        y,
    )


def test_monai_mask(monai, batch, rng):
    """Our mask leaves elements out; MONAI's multiplies input and target by it."""
    x, y = batch
    mask = torch.tensor(rng.random((2, 1, 8, 8)) < 0.7)
    theirs = monai.MaskedDiceLoss(other_act=torch.sigmoid)
    far = torch.where(mask, x, -torch.inf)  # an input whose sigmoid is what MONAI wants: 0
    ours = segact_torch.DiceLoss(**APART)(x, y, mask=mask).item()
    assert ours == pytest.approx(theirs(far, y, mask.double()).item(), rel=1e-12)


# --- segmentation_models_pytorch


@pytest.fixture
def smp():
    return pytest.importorskip(
        "segmentation_models_pytorch.losses",
        reason="segmentation_models_pytorch is not installed, or its torchvision does not load",
        exc_type=(ImportError, RuntimeError),
    )


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_smp_overlap(smp, batch, smooth):
    options = {"smooth": smooth, "channel_axis": 1}
    pairs = [
        (  # whose smooth is added to half the sum of areas
            segact_torch.DiceLoss(smooth=2 * smooth, channel_axis=1),
            smp.DiceLoss("multilabel", smooth=smooth),
        ),
        (segact_torch.JaccardLoss(**options), smp.JaccardLoss("multilabel", smooth=smooth)),
        (
            segact_torch.TverskyLoss(alpha=0.3, beta=0.7, **options),
            smp.TverskyLoss("multilabel", smooth=smooth, alpha=0.3, beta=0.7),
        ),
    ]
    for ours, theirs in pairs:
        assert_equal(ours, theirs, *batch, rel=1e-6)  # its sums are float32


def test_smp_focal_tversky(smp, batch):
    """Of one label: theirs takes the power, which it calls gamma, of the mean over labels."""
    x, y = (t[:, :1] for t in batch)
    assert_equal(
        segact_torch.FocalTverskyLoss(channel_axis=1, smooth=1.0),
        smp.TverskyLoss("multilabel", smooth=1.0, alpha=0.3, beta=0.7, gamma=0.75),
        x,
        y,
        rel=1e-6,
    )


def test_smp_focal(smp, batch):
    for gamma, alpha in ((2.0, None), (1.5, 0.25)):
        assert_equal(
            segact_torch.BinaryFocalCrossEntropyLoss(gamma=gamma, alpha=alpha),
            smp.FocalLoss("multilabel", gamma=gamma, alpha=alpha),
            *batch,
            rel=1e-6,
        )


def test_smp_lovasz_hinge(smp, batch):
    for per_sample in (False, True):
        assert_equal(
            segact_torch.LovaszHingeLoss(per_sample=per_sample),
            smp.LovaszLoss("binary", per_image=per_sample),
            *(t[:, :1].float() for t in batch),
            rel=1e-6,
        )


def test_smp_ignore_index(smp, batch):
    x, y = (t[:, :1].clone().float() for t in batch)
    y[:, :, 2:5] = 255
    pairs = [
        (
            segact_torch.DiceLoss(ignore_index=255),
            smp.DiceLoss("binary", smooth=0.0, ignore_index=255),
        ),
        (
            segact_torch.LovaszHingeLoss(ignore_index=255),
            smp.LovaszLoss("binary", ignore_index=255),
        ),
    ]
    for ours, theirs in pairs:
        assert_equal(ours, theirs, x, y, rel=1e-6)


def test_smp_an_empty_label(smp, batch):
    """Theirs of a label that the batch has nowhere is 0; ours goes on: FP / (FP + smooth)."""
    x, y = (t.clone() for t in batch)
    y[:, 1] = 0
    false = x[:, 1].sigmoid().sum().item()
    pairs = [
        (segact_torch.dice, {"smooth": 2.0}, smp.DiceLoss, {}, false / (false + 2)),
        (segact_torch.jaccard, {"smooth": 1.0}, smp.JaccardLoss, {}, false / (false + 1)),
        (
            segact_torch.tversky,
            {"smooth": 1.0, "alpha": 0.3, "beta": 0.7},
            smp.TverskyLoss,
            {"alpha": 0.3, "beta": 0.7},
            0.3 * false / (0.3 * false + 1),
        ),
    ]
    for loss, options, peer, theirs, expected in pairs:
        empty = loss(x, y, channel_axis=1, reduction="none", **options)[1]
        assert empty.item() == pytest.approx(expected, rel=1e-12)
        module = peer("multilabel", smooth=1.0, **theirs)
        apart = [module(x[:, [c]], y[:, [c]]).item() for c in range(3)]
        assert apart[1] == 0
        assert module(x, y).item() == pytest.approx(sum(apart) / 3, rel=1e-6)


def test_smp_cross_entropy(smp, batch):
    """Whose smoothing moves a target by all of its factor, where ours moves it by half."""
    for factor in (0.0, 0.05, 0.3):
        assert_equal(
            segact_torch.BinaryCrossEntropyLoss(label_smoothing=2 * factor),
            smp.SoftBCEWithLogitsLoss(smooth_factor=factor),
            *batch,
        )


def test_smp_cross_entropy_divides_by_what_is_ignored(smp, batch):
    x, y = (t.clone() for t in batch)
    y[:, :, 2:5] = 255
    valid = (y != 255).double().mean()
    ours = segact_torch.BinaryCrossEntropyLoss(ignore_index=255)
    theirs = smp.SoftBCEWithLogitsLoss(ignore_index=255)
    assert_equal(lambda x, y: valid * ours(x, y), theirs, x, y)
    assert theirs(x, y).item() < 0.7 * ours(x, y).item()


def test_an_empty_mask_beside_the_peers(monai):
    """Without smooth MONAI's is NaN where nothing is there and nothing is found; ours is 0."""
    x, y = torch.full((1, 1, 4, 4), -torch.inf), torch.zeros(1, 1, 4, 4)
    theirs = monai.DiceLoss(sigmoid=True, smooth_nr=0.0, smooth_dr=0.0)(x, y)
    assert np.isnan(theirs.item())
    assert segact_torch.DiceLoss()(x, y).item() == 0
