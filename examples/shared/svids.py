"""A certificate authority and the certificates of an example.

The root signs the leaves itself, to keep examples small: with an intermediate Envoy would have to hand its certificate on
(`peer: {xfcc: last_element}`).
"""

import datetime
import ipaddress
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

TRUST_DOMAIN = "shop.example"
LIFETIME = datetime.timedelta(hours=1)
# Certificates start a little in the past, as SPIRE's do, for clocks that are not quite equal.
BACKDATE = datetime.timedelta(seconds=10)


def make_svids(folder: pathlib.Path, leaves: dict[str, list[str]]) -> None:
    """Writes ca.crt and, for each name with its URI SANs in `leaves`, NAME.crt and NAME.key. A valid SVID has exactly one.
    An IP address in the place of a URI is a SAN too, for a server that is known by its address."""
    folder.mkdir(parents=True, exist_ok=True)
    root_key = ec.generate_private_key(ec.SECP256R1())
    root = certificate("root", [f"spiffe://{TRUST_DOMAIN}"], root_key, issuer=None)
    write(folder / "ca.crt", root.public_bytes(serialization.Encoding.PEM))
    for name, names in leaves.items():
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = certificate(name, names, key, issuer=(root, root_key))
        write(folder / f"{name}.crt", leaf.public_bytes(serialization.Encoding.PEM))
        write(
            folder / f"{name}.key",
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )


def certificate(common_name, names, key, issuer):
    """A certificate for `key` with `names` as its SANs: self-signed and a CA without `issuer`, else a leaf of it."""
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, TRUST_DOMAIN),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
    is_ca = issuer is None
    issuer_name, issuer_key = (name, key) if is_ca else (issuer[0].subject, issuer[1])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(key_usage(is_ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([general_name(name) for name in names]), critical=False)
    )
    if not is_ca:
        both_ways = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(both_ways), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def general_name(text):
    if "://" in text:
        return x509.UniformResourceIdentifier(text)
    return x509.IPAddress(ipaddress.ip_address(text))


def key_usage(is_ca):
    """An authority signs certificates and nothing else; a leaf signs handshakes and nothing else."""
    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def write(path: pathlib.Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
