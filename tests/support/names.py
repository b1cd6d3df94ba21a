"""The names over which tests are parametrised, in one list each."""

SMOOTH = ["sigmoid", "normal_cdf", "arctan", "softsign", "inverse_square_root"]
ACTIVATIONS = [*SMOOTH, "hardtanh", "linear"]

ELEMENTWISE = ["binary_cross_entropy", "binary_focal_cross_entropy", "mean_squared_error"]
RATIOS = ["dice", "jaccard", "tversky", "focal_tversky"]
OVERLAP = [*RATIOS, "dice_cross_entropy", "lovasz", "lovasz_hinge"]
LOSSES = [*ELEMENTWISE, *OVERLAP]
