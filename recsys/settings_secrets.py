"""What of the settings may stand where others read it: no password, no key, no query of a URL."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from recsys.settings import Settings

URL_SETTINGS = ("registry_url", "lake_url", "control_store_url", "evidence_store_url")


def without_secrets(settings: Settings) -> Settings:
    """The settings as they may be copied around, such as into a bundle.

    The address of a webhook is a secret as a whole.
    """
    urls = {name: bare_url(getattr(settings, name)) for name in URL_SETTINGS}
    features = settings.features.model_copy(
        update={"redis_url": bare_url(settings.features.redis_url)}
    )
    cluster = settings.cluster.model_copy(update={"alarm_webhook_url": ""})
    return settings.model_copy(update={**urls, "features": features, "cluster": cluster})


def bare_url(url: str) -> str:
    """Scheme, host, port and path of a URL; a path is left as it is."""
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    place = parts.netloc.rpartition("@")[2]
    if place == parts.netloc and not parts.query and not parts.fragment:
        return url
    return urlunsplit((parts.scheme, place, parts.path, "", ""))
