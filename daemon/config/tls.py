"""The certificate with which callbacks are served over HTTPS without a proxy.

Rule: what is returned works; what does not is said in words that name the file, never in OpenSSL's.
"""

import ssl
from pathlib import Path


def load_tls(certificate: Path, private_key: Path) -> ssl.SSLContext:
    """Return a server's context, TLS 1.2 or newer, with this chain of certificates (PEM).

    Raises:
        ValueError: a file cannot be read, is no PEM, has a passphrase, or the two do not belong
            together.
    """
    for path in (certificate, private_key):
        try:
            path.read_bytes()
        except OSError as failed:
            raise ValueError(f"{path}: {failed.strerror}") from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2

    def refuse() -> str:
        raise ValueError(f"{private_key}: expected a private key without a passphrase")

    try:
        # Without a callback OpenSSL would ask on the terminal.
        context.load_cert_chain(certificate, private_key, refuse)
    except ssl.SSLError as failed:
        # The second one is a key of another kind than the certificate's.
        if failed.reason in {"KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}:
            raise ValueError(f"{private_key}: not the key of {certificate}") from None
        raise ValueError(
            f"{certificate} and {private_key}: expected a certificate chain and its key, in PEM"
        ) from None
    return context
