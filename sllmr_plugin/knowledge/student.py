"""`CrossFitted`: a student that learns a judge's scores of pairs and never predicts a user whom it has learnt from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_ROWS = 2048  # predicted at a time: every tree walks through all of them, so they have to fit the processor's cache


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """Gradient-boosted trees, one model a fold of users.

    Attributes
    ----------
    models : list
        Model k has learnt from all users but those of fold k.
    fold_of_user : ndarray of int
        (n_users + 1,) the fold of each user by code, -1 for those whom no model has learnt from.
    """

    models: list[Any]
    fold_of_user: np.ndarray

    @classmethod
    def fit(
        cls, features: np.ndarray, scores: np.ndarray, users: np.ndarray, n_users: int, *, folds: int, seed: int
    ) -> CrossFitted:
        """Fit on the judge's pairs.

        Parameters
        ----------
        features : ndarray
            (n_pairs, n_features); NaN is a value of its own.
        scores : ndarray
            (n_pairs,) in [0, 1].
        users : ndarray of int
            (n_pairs,) codes, of at least `folds` users.
        n_users : int
            Codes run up to it.
        folds : int
            Parts that users are dealt into at random.
        seed : int
            Of the dealing, and of the trees.
        """
        from sklearn.ensemble import HistGradientBoostingRegressor

        fold_of_user = np.full(n_users + 1, -1)
        distinct = np.random.default_rng(seed).permutation(np.unique(users))
        fold_of_user[distinct] = np.arange(len(distinct)) % folds
        models = []
        for fold in range(folds):
            others = fold_of_user[users] != fold
            model = HistGradientBoostingRegressor(early_stopping=False, random_state=seed)
            models.append(model.fit(features[others], scores[others]))
        return cls(models, fold_of_user)

    def predict(self, features: np.ndarray, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return scores, and how far the models disagree about them.

        Parameters
        ----------
        features : ndarray
            (n, n_features).
        users : ndarray of int
            (n,) codes.

        Returns
        -------
        scores : ndarray
            (n,) in [0, 1]: of the one model that has not learnt from the user, or the mean of all where none has.
        spread : ndarray
            (n,) standard deviation over all models.
        """
        predicted = np.empty((len(features), len(self.models)))
        for start in range(0, len(features), _ROWS):
            rows = slice(start, start + _ROWS)
            predicted[rows] = np.stack([model.predict(features[rows]) for model in self.models], axis=1)
        predicted = predicted.clip(0, 1)
        fold = self.fold_of_user[users]
        own = np.take_along_axis(predicted, np.maximum(fold, 0)[:, None], axis=1)[:, 0]
        return np.where(fold >= 0, own, predicted.mean(axis=1)), predicted.std(axis=1)
