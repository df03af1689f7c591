"""What the secured listeners of a broker are set up with: certificates and users. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SCRAM_MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-512")
_MODULES = "org.apache.kafka.common.security"


@dataclass(frozen=True, slots=True)
class BrokerSecurity:
    """Certificates and users of the listeners `SASL_SSL` and `SSL`."""

    ca_file: Path
    """PEM: whose certificates of clients the listener `SSL` accepts."""
    server_file: Path
    """PEM: the broker's private key (PKCS 8, not encrypted), then its certificate."""
    passwords: Mapping[str, str]
    """By user name, for PLAIN and SCRAM alike."""

    def properties(self) -> dict[str, str]:
        """What a broker's properties file says of it."""
        users = "".join(f' user_{name}="{word}"' for name, word in self.passwords.items())
        scram = {
            f"listener.name.sasl_ssl.{mechanism.lower()}.sasl.jaas.config": (
                f"{_MODULES}.scram.ScramLoginModule required;"
            )
            for mechanism in SCRAM_MECHANISMS
        }
        return scram | {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.server_file),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.ca_file),
            "listener.name.ssl.ssl.client.auth": "required",
            "sasl.enabled.mechanisms": ",".join(("PLAIN", *SCRAM_MECHANISMS)),
            "listener.name.sasl_ssl.plain.sasl.jaas.config": (
                f"{_MODULES}.plain.PlainLoginModule required{users};"
            ),
        }

    def format_arguments(self) -> list[str]:
        """What tells the formatting of a broker's directory of its SCRAM users."""
        return [
            part
            for name, word in self.passwords.items()
            for mechanism in SCRAM_MECHANISMS
            for part in ("--add-scram", f"{mechanism}=[name={name},password={word}]")
        ]
