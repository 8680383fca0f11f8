"""A search that goes on asks nothing twice, and no other search's answers are taken."""

import pytest

from keras_transformer.budget_search.journal import Journal
from keras_transformer.checks import UserError
from keras_transformer.files import ModelFileError

MARK = {"command": "compress", "seed": 3}


def test_what_was_found_is_not_looked_for_again(tmp_path):
    first = Journal(tmp_path / "small", MARK)
    assert not first.goes_on
    assert first.once("cost", lambda: {"bytes": 5}) == {"bytes": 5}
    later = Journal(tmp_path / "small", MARK)
    assert later.goes_on
    assert later.once("cost", lambda: pytest.fail("asked twice")) == {"bytes": 5}
    assert later.once("short", lambda: 0.75) == 0.75


def test_a_search_that_fails_in_the_middle_of_a_question_knows_nothing_of_it(tmp_path):
    journal = Journal(tmp_path / "small", MARK)
    with pytest.raises(ZeroDivisionError):
        journal.once("cost", lambda: 1 / 0)
    assert Journal(tmp_path / "small", MARK).once("cost", lambda: 7) == 7


def test_another_searchs_state_is_refused(tmp_path):
    Journal(tmp_path / "small", MARK).once("cost", lambda: 1)
    with pytest.raises(UserError, match="another search"):
        Journal(tmp_path / "small", {**MARK, "seed": 5})


def test_a_damaged_journal_and_a_folder_of_others_are_refused(tmp_path):
    journal = Journal(tmp_path / "small", MARK)
    journal.once("cost", lambda: 1)
    (journal.folder / "journal.json").write_text("[]")
    with pytest.raises(ModelFileError, match="Delete"):
        Journal(tmp_path / "small", MARK)
    other = tmp_path / "other.partial"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="something else"):
        Journal(tmp_path / "other", MARK)


def test_when_all_is_done_nothing_is_left(tmp_path):
    journal = Journal(tmp_path / "small", MARK)
    journal.once("cost", lambda: 1)
    journal.discard()
    assert list(tmp_path.iterdir()) == []
