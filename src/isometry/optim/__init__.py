"""Optimizers: how weights move. One base, one file a method; every method works on all shapes of parameters.

Constrained weights (``isometry.manifolds.constrain_``) stay on their manifold under the optimizers whose
``manifold_aware`` is true. Methods for hidden matrices take the groups that ``isometry.roles.route`` makes, and move
everything else by AdamW in the same object.
"""

from isometry.optim._adamp import AdamP
from isometry.optim._auon import AuON, auon_update
from isometry.optim._base import Optimizer
from isometry.optim._clipped_sgd import ClippedSGD
from isometry.optim._conventions import CONVENTIONS, Convention
from isometry.optim._convert_lr import ConvertedRate, ConvertedRates, convert_lr
from isometry.optim._dct_adamw import DCTAdamW, dct_adamw_update
from isometry.optim._dct_projector import DCTProjector
from isometry.optim._dion import Dion, dion_update
from isometry.optim._explain import StepRow, StepTable, explain
from isometry.optim._generalized_signsgd import GeneralizedSignSGD, generalized_signsgd_update
from isometry.optim._hybrid_auon import HybridAuON, hybrid_auon_update
from isometry.optim._matrix import MatrixOptimizer
from isometry.optim._muon import Muon, muon_update
from isometry.optim._normalized_sgd import NormalizedSGD
from isometry.optim._normuon import NorMuon, normuon_update
from isometry.optim._orthogonal_step import POLAR, PolarSetting, orthogonalized
from isometry.optim._riemannian_adam import RiemannianAdam
from isometry.optim._riemannian_sgd import RiemannianSGD
from isometry.optim._scale_invariance import effective_lr, projection_report
from isometry.optim._sgdp import SGDP
from isometry.optim._trion import Trion, trion_update
from isometry.optim._update_scale import scale_factor

__all__ = [
    # on manifolds, and ordinary parameters beside
    "RiemannianSGD",
    "RiemannianAdam",
    # hidden matrices by a method, the rest by AdamW
    "Muon",
    "muon_update",
    "NorMuon",
    "normuon_update",
    "orthogonalized",
    "POLAR",
    "PolarSetting",
    "AuON",
    "auon_update",
    "HybridAuON",
    "hybrid_auon_update",
    # the same at low rank, in a fixed cosine basis (Dion: by a power iteration)
    "DCTAdamW",
    "dct_adamw_update",
    "Trion",
    "trion_update",
    "Dion",
    "dion_update",
    "DCTProjector",
    # without the radial part, where the length of a weight does not matter
    "AdamP",
    "SGDP",
    "projection_report",
    "effective_lr",
    # steps that do not grow with the gradient: every entry's, or the length of the whole
    "GeneralizedSignSGD",
    "generalized_signsgd_update",
    "ClippedSGD",
    "NormalizedSGD",
    # the size of an update
    "explain",
    "StepTable",
    "StepRow",
    "convert_lr",
    "ConvertedRates",
    "ConvertedRate",
    "CONVENTIONS",
    "Convention",
    "scale_factor",
    # what they have in common
    "Optimizer",
    "MatrixOptimizer",
]
