"""Build the sdist, from it the wheel, and use each as a stranger would: in a fresh venv, away from the checkout.

usage: python .ci/check_package.py WORK_DIRECTORY   (emptied first; the working directory is the checkout)
"""

import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

# What each of the two must hold: the end of a file's name inside the archive.
IN_WHEEL = ("crew_executor/__init__.py", "crew_executor/py.typed", ".dist-info/entry_points.txt", "licenses/LICENSE")
IN_SDIST = ("/crew_executor/py.typed", "/tests/unit/test_project.py", "/tox.ini", "/CHANGELOG.md", "/LICENSE")


def build(target: Path) -> tuple[Path, Path]:
    """Return the paths of (wheel, sdist); the wheel is made from the sdist, so a file missing there shows."""
    command = [sys.executable, "-m", "build", "--outdir", target]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if run.returncode:
        sys.exit(f"{run.stdout}\nthe build failed with exit code {run.returncode}")
    (wheel,) = target.glob("*.whl")
    (sdist,) = target.glob("*.tar.gz")
    return wheel, sdist


def check_contents(wheel: Path, sdist: Path) -> None:
    """Exit with a message when a file is missing from one of the archives, or a foreign one is in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = archive.namelist()
    with tarfile.open(sdist) as archive:
        in_sdist = archive.getnames()
    missing = [f"wheel: {end}" for end in IN_WHEEL if not any(name.endswith(end) for name in in_wheel)]
    missing += [f"sdist: {end}" for end in IN_SDIST if not any(name.endswith(end) for name in in_sdist)]
    foreign = [name for name in in_wheel if not name.startswith(("crew_executor/", "crew_executor-"))]
    if missing or foreign:
        sys.exit(f"missing: {missing}; in the wheel, but not ours: {foreign}")


def use(archive: Path, directory: Path) -> None:
    """Install one archive into a fresh venv and run the demo there."""
    venv.create(directory / "venv", with_pip=True)
    scripts = directory / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    for command in (
        ["python", "-m", "pip", "install", "--quiet", archive],
        ["python", "-m", "pip", "check"],
        ["python", "-m", "crew_executor", "demo", "--quick"],
        ["crew-executor", "demo", "--quick"],
    ):
        print(f"{archive.name}:", *command, flush=True)
        subprocess.run([scripts / command[0], *command[1:]], cwd=directory, check=True, timeout=600)


def main(work: Path) -> None:
    """Do all of it; a command that fails ends the script."""
    shutil.rmtree(work, ignore_errors=True)
    wheel, sdist = build(work / "dist")
    check_contents(wheel, sdist)
    for archive in (wheel, sdist):
        directory = work / archive.name.removesuffix(".tar.gz").removesuffix(".whl")
        directory.mkdir()
        use(archive, directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
