"""A certificate authority, a server and a client certificate, made by openssl."""

import subprocess


def _openssl(*arguments, cwd):
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True)


def authority(directory, name="ca"):
    """NAME.pem and NAME.key."""
    directory.mkdir(parents=True, exist_ok=True)
    _openssl(
        *"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30".split(),
        *["-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}"],
        *["-addext", "keyUsage=critical,keyCertSign,cRLSign"],
        cwd=directory,
    )
    return directory / f"{name}.pem"


def certificate(directory, name, common_name, *, ca="ca", extension="subjectAltName=DNS:localhost,IP:127.0.0.1"):
    """NAME.pem and NAME.key, signed by the authority."""
    _openssl(
        *"req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes".split(),
        *["-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={common_name}"],
        cwd=directory,
    )
    (directory / f"{name}.ext").write_text(extension + "\nbasicConstraints=CA:FALSE\n")
    _openssl(
        *["x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial"],
        *["-days", "30", "-out", f"{name}.pem", "-extfile", f"{name}.ext"],
        cwd=directory,
    )
    return directory / f"{name}.pem", directory / f"{name}.key"
