"""A certificate authority and certificates, made by openssl as an operator would."""

from dataclasses import dataclass
from pathlib import Path

from processes import run


@dataclass(frozen=True)
class Certificate:
    cert_file: Path
    key_file: Path


class Authority:
    """Signs server certificates. `ca_file` is what clients must trust."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.ca_file = folder / "ca.crt"
        self._key = folder / "ca.key"
        run(
            *"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30".split(),
            *("-subj", "/CN=tests authority", "-keyout", self._key, "-out", self.ca_file),
            *("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )

    def issue(self, name: str, *names: str) -> Certificate:
        """A certificate called `name` in the folder, for DNS names and addresses."""
        certificate = Certificate(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        alternatives = ",".join(f"{'IP' if each[0].isdigit() else 'DNS'}:{each}" for each in names)
        extensions.write_text(f"subjectAltName={alternatives}\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n")
        run(
            *"openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes".split(),
            *("-subj", f"/CN={name}", "-keyout", certificate.key_file, "-out", request),
        )
        run(
            *("openssl", "x509", "-req", "-days", "30", "-in", request, "-CA", self.ca_file, "-CAkey", self._key),
            *("-CAcreateserial", "-extfile", extensions, "-out", certificate.cert_file),
        )
        return certificate
