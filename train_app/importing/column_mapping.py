"""Which column of a file is the user, the item, the time, the kind and the value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recsys.errors import ConfigError, DataError

ENGAGEMENT_FIELDS: dict[str, tuple[str, ...]] = {
    "user_id": (
        "userid", "user", "uid", "customerid", "customer", "visitorid", "visitor", "memberid",
        "accountid", "clientid", "profileid", "username", "sessionid", "session",
    ),
    "item_id": (
        "itemid", "item", "iid", "movieid", "productid", "product", "sku", "asin", "articleid",
        "contentid", "videoid", "trackid", "songid", "bookid", "isbn", "newsid", "offerid", "movie",
    ),
    "timestamp": (
        "timestamp", "time", "ts", "datetime", "date", "createdat", "eventtime", "eventtimestamp",
        "unixtime", "occurredat", "createdtime", "timestampms", "created", "at", "tdat",
    ),
    "kind": (
        "kind", "eventtype", "event", "eventname", "action", "actiontype", "interaction",
        "interactiontype", "behavior", "behaviortype", "behaviour", "activity", "type",
    ),
    "value": ("value", "rating", "score", "stars", "weight", "overall", "grade"),
}  # fmt: skip
"""Fields of an engagement, each with the column names it is known by; the first match counts."""

ITEM_FIELDS: dict[str, tuple[str, ...]] = {
    "item_id": (*ENGAGEMENT_FIELDS["item_id"], "id"),
    "title": ("title", "name", "itemname", "productname", "prodname", "itemtitle", "headline"),
    "categories": (
        "categories", "category", "genres", "genre", "tags", "department", "maincategory", "topic",
    ),
    "creator": (
        "creator", "brand", "author", "artist", "seller", "director", "publisher", "store",
    ),
    "created": ("createdms", "createdat", "created", "releasedate", "publishedat", "date"),
}  # fmt: skip
"""Fields of a catalogue entry."""

USER_FIELDS: dict[str, tuple[str, ...]] = {"user_id": (*ENGAGEMENT_FIELDS["user_id"], "id")}


def check_mapping(given: Mapping[str, str]) -> None:
    """Refuse a `--map` that names an unknown field.

    Raises:
        ConfigError: it does.
    """
    for name in given:
        if name not in ENGAGEMENT_FIELDS:
            known = ", ".join(ENGAGEMENT_FIELDS)
            raise ConfigError(f"--map names the field {name}, expected one of {known}")


def map_columns(
    columns: Sequence[str],
    fields: Mapping[str, tuple[str, ...]],
    required: Sequence[str],
    given: Mapping[str, str],
    where: str,
) -> dict[str, str]:
    """The column of every field that has one.

    Args:
        given: columns named by the caller; the others are found by their names.
        where: the file, for messages.

    Raises:
        DataError: a named column is not there, or a required field has none; the columns found
            are listed.
    """
    for name, column in given.items():
        if columns.count(column) != 1:
            problem = "is not in" if column not in columns else "is more than once in"
            raise DataError(
                f"column {column!r}, given for {name}, {problem} {where}; columns found:"
                f" {_listed(columns)}"
            )
    found = {name: column for name, column in given.items() if name in fields}
    by_plain_name: dict[str, str] = {}
    for column in columns:
        by_plain_name.setdefault(_plain(column), column)
    for name, known_names in fields.items():
        if name not in found:
            taken = set(found.values())
            matches = (by_plain_name.get(known) for known in known_names)
            match = next((m for m in matches if m is not None and m not in taken), None)
            if match is not None:
                found[name] = match
    missing = [name for name in required if name not in found]
    if missing:
        raise DataError(_missing(missing, columns, where))
    return {name: found[name] for name in fields if name in found}


def _missing(missing: Sequence[str], columns: Sequence[str], where: str) -> str:
    example = ",".join(f"{name}=COLUMN" for name in missing)
    text = (
        f"no column of {where} looks like {' or '.join(missing)}; columns found:"
        f" {_listed(columns)}; name them with --map {example}"
    )
    if not any(any(character.isalpha() for character in column) for column in columns):
        text += ", and give --no-header if the first line is a row of data"
    return text


def _plain(column: str) -> str:
    return "".join(character for character in column.lower() if character.isalnum())


def _listed(columns: Sequence[str]) -> str:
    shown = ", ".join(column[:60] for column in columns[:40])
    return shown + (f" and {len(columns) - 40} more" if len(columns) > 40 else "")
