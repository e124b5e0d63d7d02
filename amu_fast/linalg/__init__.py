"""Linear solvers for batches of symmetric systems, by products only; every result carries its true residual."""

from amu_fast.linalg.block_cg import BlockConjugateGradient
from amu_fast.linalg.cg import ConjugateGradient
from amu_fast.linalg.cholesky import Cholesky, CholeskyFactor
from amu_fast.linalg.flat import FlatParameters
from amu_fast.linalg.modules import EmpiricalFisherOperator, GaussNewtonOperator, HessianOperator
from amu_fast.linalg.neumann import Neumann
from amu_fast.linalg.operators import DampedOperator, GlmHessian, LinearOperator, MatrixOperator
from amu_fast.linalg.output_losses import CrossEntropy, MeanSquaredError
from amu_fast.linalg.power import largest_eigenvalue
from amu_fast.linalg.preconditioners import JacobiPreconditioner, NystromPreconditioner
from amu_fast.linalg.refinement import Refinement
from amu_fast.linalg.resume import SolveProgress
from amu_fast.linalg.solution import LinearSolver, Solution
from amu_fast.linalg.structure import cast, diagonal, to_dense
from amu_fast.linalg.system import true_residual

__all__ = [
    "BlockConjugateGradient",
    "Cholesky",
    "CholeskyFactor",
    "ConjugateGradient",
    "CrossEntropy",
    "DampedOperator",
    "EmpiricalFisherOperator",
    "FlatParameters",
    "GaussNewtonOperator",
    "GlmHessian",
    "HessianOperator",
    "JacobiPreconditioner",
    "LinearOperator",
    "LinearSolver",
    "MatrixOperator",
    "MeanSquaredError",
    "Neumann",
    "NystromPreconditioner",
    "Refinement",
    "Solution",
    "SolveProgress",
    "cast",
    "diagonal",
    "largest_eigenvalue",
    "to_dense",
    "true_residual",
]
