"""Admission: full is full, and leaving makes room however one leaves."""

from __future__ import annotations

import pytest

from recsys.errors import Overloaded
from serve_app.http.admission import Admission
from serve_app.http.problems import problem_headers, status_of


def test_one_request_too_many_is_refused_with_a_time_to_retry() -> None:
    """A full gateway answers at once."""
    admission = Admission(max_concurrent=2, retry_after_s=3)
    with admission, admission:
        with pytest.raises(Overloaded) as refused, admission:
            pass
        assert admission.n_inside == 2
    assert status_of(refused.value) == 503
    assert problem_headers(refused.value) == [(b"retry-after", b"3")]


def test_a_request_that_fails_makes_room() -> None:
    """The counter follows every way out."""
    admission = Admission(max_concurrent=1)
    for _ in range(3):
        with pytest.raises(KeyError), admission:
            raise KeyError("inside")
    assert admission.n_inside == 0
