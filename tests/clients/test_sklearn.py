"""scikit-learn on joblib's backend "crew"."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("crew_backend")


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any]:
    from sklearn.datasets import make_classification

    return make_classification(300, 8, random_state=0)


def test_cross_val_score(data: tuple[Any, Any]) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    scores = [cross_val_score(LogisticRegression(), *data, cv=6, n_jobs=n_jobs) for n_jobs in (1, 2)]

    assert scores[0].tolist() == scores[1].tolist()


def test_grid_search(data: tuple[Any, Any]) -> None:
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    grid = {"C": [0.1, 1, 10], "kernel": ["linear", "rbf"]}
    serial, parallel = (GridSearchCV(SVC(), grid, cv=3, n_jobs=n_jobs).fit(*data) for n_jobs in (1, 2))

    assert serial.best_params_ == parallel.best_params_
    assert serial.cv_results_["mean_test_score"].tolist() == parallel.cv_results_["mean_test_score"].tolist()


def test_random_forest(data: tuple[Any, Any]) -> None:
    from sklearn.ensemble import RandomForestClassifier

    forests = [RandomForestClassifier(20, n_jobs=n_jobs, random_state=0).fit(*data) for n_jobs in (1, 2)]

    assert forests[0].predict_proba(data[0]).tolist() == forests[1].predict_proba(data[0]).tolist()


def test_a_forest_in_a_search(data: tuple[Any, Any]) -> None:
    """Nested: the search runs in processes, the forest in threads of them."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV

    def fit(n_jobs: int) -> Any:
        forest = RandomForestClassifier(5, n_jobs=n_jobs, random_state=0)
        return GridSearchCV(forest, {"max_depth": [2, 4]}, cv=3, n_jobs=n_jobs).fit(*data)

    assert fit(1).cv_results_["mean_test_score"].tolist() == fit(2).cv_results_["mean_test_score"].tolist()
