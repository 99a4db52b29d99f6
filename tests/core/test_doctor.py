"""The doctor runs where nothing is installed, and finds what is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from src import doctor

ROOT = Path(__file__).resolve().parents[2]


def test_without_any_package_every_one_is_a_line_with_its_fix() -> None:
    """-S hides site-packages: the Python of a fresh clone."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "src.doctor", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)}
    for name in doctor.NEEDED:
        assert findings[name]["state"] == "bad" and "make setup" in findings[name]["fix"]


def test_the_plain_table_needs_no_package_either() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", "src.doctor"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "✗ torch" in done.stdout and "→ make setup" in done.stdout


def test_versions_are_compared_with_the_constraints(monkeypatch: pytest.MonkeyPatch) -> None:
    pins = doctor.expected_versions()
    assert pins["torch"] == "2.13.0" and pins["lightning"] == "2.6.6"
    found = {"torch": "2.13.0+cpu", "lightning": "2.6.3", "peft": "0.1"}
    monkeypatch.setattr(
        doctor.importlib.metadata, "version", lambda name: found.get(name, pins[doctor._canonical(name)])
    )
    states = {finding.check: finding for finding in doctor.check_packages()}
    assert states["torch"].state == doctor.OK, "a local build of the tested version is that version"
    assert states["lightning"].state == doctor.BAD and "malicious" in states["lightning"].fix
    assert states["peft"].state == doctor.WARNING
    assert states["numpy"].state == doctor.OK


def test_a_package_that_crashes_on_import_is_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "raising.py").write_text("raise RuntimeError('broken wheel')")
    (tmp_path / "crashing.py").write_text("import os; os._exit(139)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "_installed", lambda name: True)
    monkeypatch.setattr(doctor, "NEEDED", {"json": "json", "raising": "raising"})
    (finding,) = doctor.check_imports()
    assert finding.state == doctor.BAD and "broken wheel" in finding.found
    monkeypatch.setattr(doctor, "NEEDED", {"crashing": "crashing", "json": "json"})
    (finding,) = doctor.check_imports()
    assert finding.state == doctor.BAD and "139" in finding.found and "crashing" in finding.check


def test_wandb_is_read_from_key_and_netrc_without_asking(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    assert doctor.check_wandb().state == doctor.WARNING
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password key\n")
    assert doctor.check_wandb().state == doctor.OK
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert doctor.check_wandb().state == doctor.OK


def test_models_and_data_are_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    assert doctor.check_assets().state == doctor.BAD
    weights = tmp_path / "assets" / "kosmos2_tiny" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"version https://git-lfs")
    assert "lfs" in doctor.check_assets().fix
    weights.write_bytes(bytes(2000))
    assert doctor.check_assets().state == doctor.OK

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert doctor.check_kosmos().state == doctor.WARNING
    snapshot = tmp_path / "hub" / "models--microsoft--kosmos-2-patch14-224" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    assert doctor.check_kosmos().state == doctor.OK

    assert doctor.check_data(tmp_path / "none").state == doctor.BAD
    assert doctor.check_data(tmp_path).state == doctor.BAD
    (tmp_path / "a.h5").touch()
    assert doctor.check_data(tmp_path).state == doctor.BAD, "an empty file is no episode"
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    assert doctor.check_data(tmp_path).state == doctor.OK


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["doctor", "--json"])
    for state, code in ((doctor.OK, 0), (doctor.WARNING, 0), (doctor.BAD, 1)):
        monkeypatch.setattr(doctor, "examine", lambda data, state=state: [doctor.Finding("x", state, "y")])
        assert doctor.main() == code
        assert json.loads(capsys.readouterr().out)[0]["state"] == state


def test_a_pointer_among_the_episodes_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert doctor.check_data(tmp_path).state == doctor.OK
    (tmp_path / "b.h5").write_text("version https://git-lfs.github.com/spec/v1")
    finding = doctor.check_data(tmp_path)
    assert finding.state == doctor.BAD and "b.h5" in finding.found and "git lfs" in finding.fix
