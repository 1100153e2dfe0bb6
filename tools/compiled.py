"""The compiled core: python -m tools.compiled DIRECTORY

makes DIRECTORY a place to import `ustack` from whose core is machine code, made by mypyc.
`make fast` calls it for build/fast; the build hook of the wheel (`hatch_build.py`) calls
`compile_core` as well. Decision 0012 says why, and what compiled code cannot do.

What is compiled is the core: everything that imports nothing from outside it. So a tree with
only these files, under an empty `ustack/__init__.py`, is complete, and mypy reads no more than
it must. mypyc writes one C file a module and one small one by which Python finds the
module; all of the code lands in one library, `ustack__mypyc`, in which a call from one module
to another is a C call.

No file is ever written into the source tree: an extension module there would win over its
own source, edited since. DIRECTORY holds copies, and a stamp of what they were made from. It is
replaced whole, so that whoever imports from it meanwhile sees the old one or the new one.
Beside it stays `DIRECTORY.work`, with C files and objects: an object is made anew only if its C
file or a header has changed, which mypyc leaves alone where they have not.

Compiling takes a minute, and most of that is the C compiler, so it runs once a processor.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata, util
from pathlib import Path
from typing import Any

CORE = ("wire", "sock", "tcp", "udp", "ping", "ip", "link", "stack.py")
OPTIMISATION = "1"
ROOT = Path(__file__).resolve().parent.parent
STAMP = ".stamp"
HELP = "Make a directory to import ustack from, with a compiled core."


class CannotCompileError(Exception):
    """What is missing here, and what mends it. One line."""


# -- what is compiled ----------------------------------------------------------------------


def core_files(root: Path) -> list[str]:
    """The files of the core below `root`, those of packages too."""
    package = root / "ustack"
    paths = [path for name in CORE for path in (package / name).rglob("*.py")]
    paths += [package / name for name in CORE if name.endswith(".py")]
    return sorted(path.relative_to(root).as_posix() for path in paths)


def compiled_modules(root: Path = ROOT) -> list[str]:
    """The modules that are machine code when the core is compiled."""
    names = (file.removesuffix(".py").replace("/", ".") for file in core_files(root))
    return [name for name in names if not name.endswith("__init__")]


def stamp(root: Path = ROOT) -> str:
    """A digest of all that the result depends on."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for what in (sys.version, _suffix(), metadata.version("mypy")):
        digest.update(what.encode())
    for path in sources(root):
        digest.update(f"{path.relative_to(root)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def sources(root: Path) -> list[Path]:
    """All files of the package."""
    paths = sorted((root / "ustack").rglob("*"))
    return [path for path in paths if path.is_file() and "__pycache__" not in path.parts]


def _suffix() -> str:
    return str(sysconfig.get_config_var("EXT_SUFFIX"))


def missing() -> str | None:
    """What this machine lacks for compiling, None if nothing."""
    lacking = []
    if shutil.which(_compiler()[0]) is None:
        lacking.append("a C compiler")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        lacking.append("Python's headers")
    if lacking:
        return f"compiling needs {' and '.join(lacking)}: apt install gcc python3-dev"
    if util.find_spec("mypyc") is None or util.find_spec("setuptools") is None:
        return "compiling needs mypyc: pip install 'mypy[mypyc]'"
    return None


# -- compiling -----------------------------------------------------------------------------


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def compile_core(root: Path, work: Path) -> dict[str, Path]:
    """Compile the core below `root`. Where each extension module is, by its place in a
    directory to import from. CalledProcessError or SystemExit when a compiler, which has
    said why, has failed."""
    files, work = core_files(root), work.resolve()
    shutil.rmtree(work / "ustack", ignore_errors=True)
    shutil.rmtree(work / ".mypy_cache", ignore_errors=True)
    for file in files:
        _put(root / file, work / file)
    (work / "ustack" / "__init__.py").touch()
    with contextlib.chdir(work), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        extensions = _generate([file for file in files if not file.endswith("__init__.py")])
        headers = max(path.stat().st_mtime for path in Path().rglob("*.h"))
        jobs = [(source, ext) for ext in extensions for source in ext.sources]
        jobs.sort(key=lambda job: -Path(job[0]).stat().st_size)  # none that is long at the end
        made = pool.map(lambda job: _object(job[0], job[1], headers), jobs)
        objects = {source: made_of for (source, _), made_of in zip(jobs, made, strict=True)}
        found = pool.map(lambda ext: _link(ext, [objects[s] for s in ext.sources]), extensions)
        return {target: work / path for target, path in found}


def _generate(files: list[str]) -> list[Any]:
    """The extensions, whose C files have been written below `c`."""
    import setuptools  # noqa: F401  (mypyc takes its Extension where it finds it loaded)
    from mypyc.build import mypycify

    return mypycify(
        ["--config-file=", *files],
        opt_level=OPTIMISATION,
        debug_level="0",
        multi_file=True,
        group_name="ustack",
        target_dir="c",
    )


def _put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _is_newer(target: Path, than: float) -> bool:
    return target.exists() and target.stat().st_mtime > than


def _object(source: str, ext: Any, headers: float) -> Path:
    target = Path("o", source).with_suffix(".o")
    if not _is_newer(target, max(headers, Path(source).stat().st_mtime)):
        include = [f"-I{path}" for path in (sysconfig.get_path("include"), *ext.include_dirs)]
        flags = shlex.split(sysconfig.get_config_var("CFLAGS") or "")
        argv = [*_compiler(), *flags, "-fPIC", *ext.extra_compile_args, *include]
        _run([*argv, "-c", source], target)
    return target


def _link(ext: Any, objects: list[Path]) -> tuple[str, Path]:
    name = ext.name.replace(".", "/") + _suffix()
    target = Path("lib", name)
    if not _is_newer(target, max(path.stat().st_mtime for path in objects)):
        _run([*_compiler(), "-shared", *map(str, objects)], target)
    return name, target


def _run(argv: list[str], target: Path) -> None:
    """Make `target`, or nothing: not half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    half_done = target.with_suffix(".tmp")
    subprocess.run([*argv, "-o", str(half_done)], check=True)
    half_done.replace(target)


# -- a directory to import from ------------------------------------------------------------


def build(directory: Path, root: Path = ROOT) -> bool:
    """Bring `directory` up to date with the sources. Was there anything to do?"""
    with _locked(directory.with_suffix(".lock")):
        if problem := missing():
            raise CannotCompileError(problem)
        found = directory / STAMP
        if found.exists() and found.read_text() == stamp(root):
            return False
        fresh = directory.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        for path in sources(root):
            _put(path, fresh / path.relative_to(root))
        made_of = stamp(fresh)  # the sources may have changed meanwhile
        for name, extension in compile_core(fresh, directory.with_suffix(".work")).items():
            _put(extension, fresh / name)
        (fresh / STAMP).write_text(made_of)
        shutil.rmtree(directory, ignore_errors=True)
        fresh.rename(directory)
        return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.compiled", description=HELP)
    parser.add_argument("directory", type=Path, nargs="?", help="to import from; made or renewed")
    parser.add_argument("--check", action="store_true", help="only say whether that is possible")
    args = parser.parse_args(argv)
    if args.directory is None or args.check:
        problem = missing()
        if problem:
            print(f"ustack: {problem}", file=sys.stderr)
        return 1 if problem else 0
    try:
        done = build(args.directory)
    except CannotCompileError as exc:
        print(f"ustack: {exc}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as exc:
        print(f"ustack: the C compiler failed with status {exc.returncode}", file=sys.stderr)
        return 1
    except SystemExit:
        print("ustack: mypyc cannot compile the core (above)", file=sys.stderr)
        return 1
    print(f"{args.directory} {'has been built' if done else 'is up to date'}: compiled core")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
