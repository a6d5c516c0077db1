import shutil
import ssl
import stat
from pathlib import Path

import pytest

from supervisor import tls
from tests.certificates import paths


def test_a_pair_is_copied_for_the_front_alone(tmp_path: Path) -> None:
    staged = tmp_path / "tls"
    tls.stage(paths.FIRST, paths.FIRST_KEY, staged, None)
    assert stat.S_IMODE(staged.stat().st_mode) == 0o700
    for name, source in ((tls.CERTIFICATE, paths.FIRST), (tls.KEY, paths.FIRST_KEY)):
        assert (staged / name).read_bytes() == source.read_bytes()
        assert stat.S_IMODE((staged / name).stat().st_mode) == 0o400
    tls.load(tls.server_context(), staged)
    tls.stage(paths.SECOND, paths.SECOND_KEY, staged, None)
    assert (staged / tls.CERTIFICATE).read_bytes() == paths.SECOND.read_bytes()
    assert {path.name for path in staged.iterdir()} == {tls.CERTIFICATE, tls.KEY}


@pytest.mark.root
def test_the_copy_belongs_to_the_fronts_uid(tmp_path: Path) -> None:
    staged = tmp_path / "tls"
    tls.stage(paths.FIRST, paths.FIRST_KEY, staged, 61234)
    assert {path.stat().st_uid for path in (staged, *staged.iterdir())} == {61234}


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        (paths.FIRST, paths.SECOND_KEY, "are no certificate and its key"),
        (paths.FIRST, paths.ENCRYPTED_KEY, "the key is encrypted"),
        (paths.FIRST_KEY, paths.FIRST_KEY, "are no certificate and its key"),
        (paths.FIRST, Path("/nonexistent"), "/nonexistent cannot be read: No such file"),
        (Path("/dev/zero"), paths.FIRST_KEY, "/dev/zero is over"),
    ],
)
def test_what_is_no_pair_is_said_and_changes_nothing(
    tmp_path: Path, certificate: Path, key: Path, said: str
) -> None:
    staged = tmp_path / "tls"
    tls.stage(paths.FIRST, paths.FIRST_KEY, staged, None)
    with pytest.raises(tls.CertificateError, match=said):
        tls.stage(certificate, key, staged, None)
    assert (staged / tls.CERTIFICATE).read_bytes() == paths.FIRST.read_bytes()
    tls.load(tls.server_context(), staged)


def test_old_versions_of_tls_are_not_spoken() -> None:
    assert tls.server_context().minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_command_trusts_the_staged_certificate_only(tmp_path: Path) -> None:
    tls.stage(paths.FIRST, paths.FIRST_KEY, tmp_path / "tls", None)
    context = tls.client_context(tmp_path / "tls")
    assert context.verify_mode is ssl.CERT_REQUIRED
    (anchor,) = context.get_ca_certs()
    assert "first.test" in str(anchor["subject"])
    shutil.rmtree(tmp_path / "tls")
    with pytest.raises(OSError, match="No such file"):
        tls.client_context(tmp_path / "tls")
