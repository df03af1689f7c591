"""Several cuts, a published split, and one page per user: what is held out and learned from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pytrec_eval

from recsys.errors import ConfigError, DataError
from recsys.learning_settings import ScorerSettings, TrainSettings
from recsys.settings import Settings
from recsys.types import RowArray
from train_app.evaluation.evaluation_protocols import HeldOut, hold_out
from train_app.evaluation.metrics import Interval
from train_app.evaluation.splits.cut_points import Cut, cut_points
from train_app.evaluation.splits.fixed_negatives import (
    NamedQuery,
    hold_out_named,
    read_negatives,
)
from train_app.evaluation.splits.user_pages import GRADED_BY_KIND, GRADED_BY_VALUE, UserPages
from train_app.examples.interactions import Interactions, interactions_from_columns


def data_of(n: int = 100, values: bool = True) -> Interactions:
    """Ten users, 40 items, one engagement a millisecond, two kinds."""
    rng = np.random.default_rng(0)
    return interactions_from_columns(
        [f"u{user}" for user in rng.integers(0, 10, n)],
        [f"i{item}" for item in rng.integers(0, 40, n)],
        [("view", "buy")[kind] for kind in rng.integers(0, 2, n)],
        range(n),
        values=rng.integers(1, 6, n).astype(np.float32) if values else None,
    )


def test_windows_follow_each_other_to_the_end() -> None:
    """Three of a tenth each: the newest three tenths."""
    assert cut_points(data_of(), 0.1, 3) == [Cut(70, 80), Cut(80, 90), Cut(90, None)]
    assert cut_points(data_of(), 0.1, 1) == [Cut(90, None)]


def test_windows_of_equal_times_are_one() -> None:
    """Two moments give one cut however many were asked for."""
    data = interactions_from_columns(
        ["u"] * 20, [f"i{n}" for n in range(20)], ["view"] * 20, [0] * 10 + [5] * 10
    )
    assert cut_points(data, 0.2, 2) == [Cut(5, None)]


def test_too_many_windows_are_refused() -> None:
    """Nothing would be left to learn from."""
    with pytest.raises(ConfigError, match="--cuts 10"):
        cut_points(data_of(), 0.1, 10)


def test_a_window_ends_where_the_next_begins() -> None:
    """Every held-out engagement is in one window, and none after it is asked for."""
    data = data_of()
    for cut in cut_points(data, 0.1, 3):
        held_out = hold_out(
            "time",
            data,
            cutoff_ms=cut.from_ms,
            until_ms=cut.until_ms,
            negative_kinds=(),
            seed=0,
        )
        times_ms = data.timestamps_ms[held_out.positions]
        assert (times_ms >= cut.from_ms).all()
        assert (times_ms < (cut.until_ms or 100)).all()
        assert (held_out.train.timestamps_ms < cut.from_ms).all()


def a_split(tmp_path: Path, text: str) -> list[NamedQuery]:
    """The lines of a negatives file."""
    path = tmp_path / "some.negative"
    path.write_text(text)
    return read_negatives(path)


def test_a_published_split_is_held_out_as_it_is_named(tmp_path: Path) -> None:
    """The named engagement moves behind its user's others, which are all learned from."""
    data = interactions_from_columns(
        ["u", "u", "u", "v", "v"], ["a", "b", "c", "b", "d"], ["view"] * 5, [1, 9, 9, 1, 2]
    )
    named = a_split(tmp_path, "(u,b)\td\te\n(v,d)\ta\tc\n(w,a)\tb\tc\n")
    held_out = hold_out_named(data, named, Path("some.negative"))
    ids = [item.item_id for item in data.items]
    assert [ids[row] for row in held_out.targets] == ["b", "d"]
    assert [[ids[row] for row in seen] for seen in held_out.seen()] == [["a", "c"], ["b"]]
    assert held_out.candidates is not None
    found = [[ids[row] for row in rows if row >= 0] for rows in held_out.candidates]
    assert found == [["b", "d"], ["d", "a", "c"]]
    assert len(held_out.train) == 3
    assert any("1 of its 3 lines" in note for note in held_out.notes)
    assert any("1 of its negatives" in note for note in held_out.notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no line"),
        ("(u,a)\n", "line 1"),
        ("(u,a)\tb\nu a b\n", "line 2"),
    ],
)
def test_a_file_of_something_else_is_refused_with_its_line(
    text: str, words: str, tmp_path: Path
) -> None:
    """What was found and what was expected."""
    with pytest.raises(DataError, match=words):
        a_split(tmp_path, text)


def test_a_split_of_other_ids_is_refused(tmp_path: Path) -> None:
    """Ids must be those that were imported."""
    named = a_split(tmp_path, "(7,8)\t9\n")
    with pytest.raises(DataError, match="none of the 1 engagements"):
        hold_out_named(data_of(), named, Path("some.negative"))
    with pytest.raises(DataError, match="cannot be read"):
        read_negatives(tmp_path / "nothing")


def held_out_of(data: Interactions) -> HeldOut:
    """The newest third, by time."""
    return hold_out("time", data, cutoff_ms=66, negative_kinds=(), seed=0)


def test_a_page_per_user_reads_what_was_before_the_cutoff_alone() -> None:
    """One query per user with all of the user's held-out items and their values as grades."""
    data = data_of()
    held_out = held_out_of(data)
    pages = UserPages.of(held_out, Settings(), max_users=10)
    assert pages.graded_by == GRADED_BY_VALUE
    assert pages.queries.users.tolist() == np.unique(held_out.users).tolist()
    for query, (user, seen) in enumerate(
        zip(pages.queries.users, pages.queries.seen(), strict=True)
    ):
        start, end = data.offsets[user], data.offsets[user + 1]
        before = data.timestamps_ms[start:end] < 66
        assert seen.tolist() == data.rows[start:end][before].tolist()
        positions = held_out.positions[held_out.users == user]
        expected = dict(zip(data.rows[positions], data.values[positions], strict=True))
        assert relevant_of(pages, query) == expected
        assert pages.n_relevant[query] == len(positions)
        best = sorted(data.values[positions].tolist(), reverse=True)[:10]
        assert pages.ideal[query].tolist() == best + [0.0] * (10 - len(best))


def relevant_of(pages: UserPages, query: int) -> dict[int, float]:
    """The grades of a query's relevant items, by row."""
    of, rows = np.divmod(pages.keys, pages.queries.interactions.n_items + 1)
    return dict(zip(rows[of == query].tolist(), pages.grades[of == query].tolist(), strict=True))


def test_a_sample_of_users_judges_each_by_all_they_did() -> None:
    """Fewer users, and nothing of theirs is lost; the table says of how many they were drawn."""
    held_out = held_out_of(data_of(300))
    whole = UserPages.of(held_out, Settings(), max_users=10)
    some = UserPages.of(held_out, Settings(), max_users=4)
    everybody = whole.queries.users.tolist()
    assert len(some.queries.users) == 4
    for query, user in enumerate(some.queries.users.tolist()):
        assert relevant_of(some, query) == relevant_of(whole, everybody.index(user))
    section = some.section({"some": random_lists(4, 40)}, seed=0)
    assert any("of 10 users" in note for note in section.notes)


def test_without_values_the_weights_of_kinds_grade() -> None:
    """A purchase is worth what the utility says it is; a kind not named is worth 1."""
    scorer = ScorerSettings(utility_weights={"buy": 3.0})
    settings = Settings(train=TrainSettings(scorer=scorer))
    pages = UserPages.of(held_out_of(data_of(values=False)), settings, max_users=10)
    assert pages.graded_by == GRADED_BY_KIND
    assert set(np.unique(pages.grades)) == {1.0, 3.0}


def random_lists(n_queries: int, n_items: int) -> RowArray:
    """Lists of 20 items with padding at their ends."""
    rng = np.random.default_rng(1)
    found = np.stack([rng.permutation(n_items)[:20] for _ in range(n_queries)]).astype(np.int32)
    found[::2, 15:] = -1
    return found


def test_graded_pages_agree_with_trec_eval() -> None:
    """P@10, recall@10, MAP, MRR and graded NDCG@10 of the table are those of trec_eval."""
    pages = UserPages.of(held_out_of(data_of(300)), Settings(), max_users=10)
    lists = random_lists(len(pages.queries), 40)
    section = pages.section({"some": lists}, seed=0)
    qrels = {
        f"q{q}": {f"d{row}": int(grade) for row, grade in relevant_of(pages, q).items()}
        for q in range(len(lists))
    }
    run = {
        f"q{q}": {f"d{row}": float(-place) for place, row in enumerate(rows) if row >= 0}
        for q, rows in enumerate(lists)
    }
    names = {"P.10", "recall.10", "map", "recip_rank", "ndcg_cut.10"}
    reference = pytrec_eval.RelevanceEvaluator(qrels, names).evaluate(run)
    keys = ("P_10", "recall_10", "map", "recip_rank", "ndcg_cut_10")
    for key, cell in zip(keys, section.rows[0][1:], strict=True):
        assert isinstance(cell, Interval)
        theirs = np.mean([values[key] for values in reference.values()])
        assert cell.mean == pytest.approx(theirs, abs=1e-6), key
