"""Make the virtual environment of this checkout, or find at once that it is there: `python3 environment.py FOLDER`.

A stamp in the environment holds the hash of pyproject.toml, the interpreter and the checkout that is linked into it.
Needs nothing but Python's standard library, and must be readable by an old Python so that it can say so.
"""

import hashlib
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST, NEWEST = (3, 11), (3, 13)


def main():
    """Make or update the environment named on the command line."""
    folder = os.path.abspath(sys.argv[1])
    stamp = os.path.join(folder, "gencompress-stamp")
    wanted = f"{requirements()}\n{ROOT}\n"
    found = read(stamp)
    if found == wanted:
        return
    python = interpreter()
    if not os.path.exists(os.path.join(folder, "bin", "python")):
        create(python, folder)
    pip = [os.path.join(folder, "bin", "python"), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    if found.split("\n")[0] != wanted.split("\n")[0]:
        say(f"installing into {folder}: some minutes and gigabytes the first time (PyTorch is large)")
        run([*pip, "setuptools>=77"])
        run([*pip, "--no-build-isolation", "-e", ROOT + "[dev]"])
    else:  # the same packages, made for a checkout elsewhere
        run([*pip, "--no-build-isolation", "--no-deps", "-e", ROOT])
    with open(stamp + ".tmp", "w") as file:
        file.write(wanted)
    os.replace(stamp + ".tmp", stamp)


def requirements():
    """Hash of what decides the packages."""
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def read(path):
    """Content of a file, empty if there is none."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def interpreter():
    """This Python, or another one on the PATH if this one's version does not fit."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return sys.executable
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        other = shutil.which(f"python3.{minor}")
        # a shim of pyenv, say, may stand for a Python that is not there
        if other and subprocess.call([other, "-c", ""], stderr=subprocess.DEVNULL) == 0:
            return other
    fail(
        "Python {}.{} to {}.{} is needed; {} is {}.{}. Install one, or name it: make PYTHON=/path/to/python".format(
            *OLDEST, *NEWEST, sys.executable, *sys.version_info[:2]
        )
    )


def create(python, folder):
    """A new virtual environment with pip, in place of a broken one but of nothing else."""
    if os.path.isdir(folder) and os.listdir(folder) and not os.path.exists(os.path.join(folder, "pyvenv.cfg")):
        fail(f"{folder} is not empty and no virtual environment: name another folder with make VENV=FOLDER")
    if subprocess.call([python, "-c", "import ensurepip, venv"], stderr=subprocess.DEVNULL) != 0:
        fail(
            f"{python} cannot make virtual environments: it lacks ensurepip. On Debian and Ubuntu install the package "
            "python3-venv, elsewhere a complete Python, and run make again"
        )
    say(f"making {folder}")
    run([python, "-m", "venv", "--clear", folder])


def run(command):
    """Run a command; leave with its exit code if it fails."""
    code = subprocess.call(command)
    if code != 0:
        fail("this command failed with exit code {}:\n  {}".format(code, " ".join(command)))


def say(text):
    """One line for the person who waits."""
    sys.stderr.write("environment: " + text + "\n")


def fail(text):
    """Leave with a message."""
    say(text)
    sys.exit(1)


if __name__ == "__main__":
    main()
