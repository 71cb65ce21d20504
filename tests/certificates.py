"""Both sides of TLS for a test, with certificates of an authority that nobody else knows."""

import ssl

import trustme


def serving(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """Return a server's side of TLS, with ticket keys of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """Return a client's side of TLS, as strict as the default, that knows *authority* too."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
