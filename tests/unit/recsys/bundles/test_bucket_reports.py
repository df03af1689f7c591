"""What a bucket's client reports is told plainly, and without what a URL keeps secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.bundles.bucket_objects import open_objects
from recsys.bundles.bucket_reports import plain_place, plain_report
from recsys.errors import ConfigError

REFUSED = (
    "Generic S3 error: Error performing list request: Error performing GET "
    "http://ann:s3cret@127.0.0.1:9/flywheel?list-type=2&sig=t0ken in 157.7ms, after 4 retries, "
    "max_retries: 4, retry_timeout: 20s  - HTTP error: error sending request"
)
WORDS = st.text(st.characters(min_codepoint=48, max_codepoint=122, categories=["L", "N"]))


def test_a_call_is_told_by_host_path_and_reason() -> None:
    """Who was asked for what, how often, and why it failed."""
    expected = (
        "GET of 127.0.0.1:9/flywheel failed, after 4 retries: HTTP error: error sending request"
    )
    assert plain_report(REFUSED) == expected


def test_the_error_code_of_an_answer_is_told_in_one_line() -> None:
    """It says most, and stands in a document below the first line."""
    report = "Generic S3 error: Client error with status 403: <?xml?>\n<Code>AccessDenied</Code>"
    assert plain_report(report) == "Client error with status 403: AccessDenied"


@given(WORDS, WORDS.filter(bool), WORDS.filter(bool))
def test_no_password_and_no_query_is_told(user: str, password: str, query: str) -> None:
    """Whatever they are; the marks keep them apart from the words around."""
    url = f"https://{user}:P{password}P@store.example/b?Q{query}Q"
    for told in (plain_place(url), plain_report(f"cannot reach {url} now")):
        assert f"P{password}P" not in told
        assert f"Q{query}Q" not in told
        assert "store.example/b" in told


@pytest.mark.parametrize("place", ["/var/bundles", "file:///var/a b", "s3://flywheel/bundles", ""])
def test_a_place_without_secrets_is_told_as_it_is(place: str) -> None:
    """Nothing is taken from a path."""
    assert plain_place(place) == place


def test_a_url_of_no_store_is_refused_without_its_password() -> None:
    """The setting is named, its secret is not."""
    with pytest.raises(ConfigError, match="registry_url 'nostore://host/b'") as caught:
        open_objects("nostore://ann:s3cret@host/b")
    assert "s3cret" not in str(caught.value)
