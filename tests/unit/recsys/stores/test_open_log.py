"""What the settings say of the log: which one it is, and whether it may hold an id twice."""

from __future__ import annotations

from pathlib import Path

from recsys.settings import Settings
from recsys.stores.log.open_log import log_may_repeat, open_log, open_writer_log


def the_settings(data_dir: Path, backend: str) -> Settings:
    """Settings with this log."""
    return Settings.model_validate({"data_dir": str(data_dir), "events": {"backend": backend}})


def test_a_brokers_log_may_repeat_an_id(tmp_path: Path) -> None:
    """A producer's retry, a spool's replay and a client's second try are stored again."""
    assert log_may_repeat(the_settings(tmp_path, "kafka"))


def test_an_embedded_log_repeats_only_after_a_file_was_set_aside(tmp_path: Path) -> None:
    """The fresh file does not know the ids of the damaged one."""
    settings = the_settings(tmp_path, "sqlite")
    assert not log_may_repeat(settings)
    open_log(settings).close()
    assert not log_may_repeat(settings)
    settings.log_path.write_bytes(b"no database at all" * 1000)
    for companion in ("-wal", "-shm"):
        settings.log_path.with_name(settings.log_path.name + companion).unlink(missing_ok=True)
    open_writer_log(settings, "gateway").close()
    assert log_may_repeat(settings)
