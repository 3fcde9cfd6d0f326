"""The front door: sparse coding as a scikit-learn estimator.

`sparse_coding` has the estimator and how it learns, `fitted` what can be done with it once it has.
"""

from sparsentropy.estimator.sparse_coding import SparseCoding

__all__ = ["SparseCoding"]
