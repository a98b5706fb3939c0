"""Numba's compiler for the kernels of the CPU, and their machine code on disk.

Numba's own cache is passed over: without a folder that can be written to it refuses to compile, a damaged file of it
ends every later run, and a process that was started before a source was edited leaves the old code as the new one's.
Here each compiled signature is a file, of

    the sha256 of all that follows and of what it is for | the pickled code

in a folder for each state of the sources (kernels/cpu/sources.py), where Numba would have its own: in NUMBA_CACHE_DIR,
in `__pycache__` or in the user's cache. Whatever cannot be read is compiled, and whatever cannot be written is not
kept: the cache saves time and is never a reason to fail.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy.ma  # noqa: F401 - Numba would at the first call, under no lock that a fork could wait for
from numba.core import config
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, CompileResult
from numba.core.compiler_lock import global_compiler_lock
from numba.core.serialize import dumps
from numba.core.sigutils import normalize_signature
from numba.core.types import unliteral

from tilegrad.kernels.cpu import sources
from tilegrad.kernels.system.unreached import unreached

if vars(config)["DISABLE_JIT"]:  # of names that Numba sets when it is imported
    raise ImportError("Numba's compiler is switched off: NUMBA_DISABLE_JIT is set")

_KEPT = 4  # folders of other states of the sources: of one that is edited to and fro, of another branch
_DIGEST = hashlib.sha256().digest_size


def njit(*, cache: bool = False, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba.njit(**options), with this module's cache, and compiled once for each type of its arguments.

    Numba would compile it again for every constant that another kernel calls it with: attention's product four times.

    What has no cache is a part of other kernels: only compiled code can call it. So it has no doors for Python and C,
    it is optimised where it is called and not before that, and there is no machine code of it alone.
    """
    options = {"no_cfunc_wrapper": True, **options}
    if not cache:
        options = {"no_cpython_wrapper": True, "pipeline_class": _PartCompiler, **options}

    def decorate(function: Callable[..., Any]) -> Any:
        compiled: Any = numba.njit(**options)(function)
        template = compiled.get_call_template  # what a call in compiled code is typed by
        compiled.get_call_template = lambda args, kws: template(
            tuple(unliteral(a) for a in args), {name: unliteral(a) for name, a in kws.items()}
        )
        compiled.compile = _uninterrupted(compiled.compile)
        # What a call with new types begins with:
        compiled._compile_for_args = _uninterrupted(compiled._compile_for_args)
        if cache:
            compiled._cache = _Cache(function)
        else:
            compiled.__class__ = _part_of(type(compiled))
        return compiled

    return decorate


def cfunc(signature: Any, function: Callable[..., Any]) -> CFunc:
    """numba.cfunc(signature)(function), with this module's cache."""
    compiled: Any = CFunc(function, normalize_signature(signature), locals={}, options={})
    compiled._cache = _Cache(function)
    _uninterrupted(compiled.compile)()
    return compiled


def _uninterrupted(compiling: Callable[..., Any]) -> Callable[..., Any]:
    """The function in a thread that Ctrl-C does not reach, unless this thread is compiling what calls it: then that
    has Numba's lock, which another one would wait for.
    """
    elsewhere = unreached(compiling)

    def call(*args: Any, **kwargs: Any) -> Any:
        return (compiling if global_compiler_lock.is_locked() else elsewhere)(*args, **kwargs)

    return call


class _PartCompiler(Compiler):
    """Numba's compiler, for what becomes a part of other kernels."""

    def compile_extra(self, func: Callable[..., Any]) -> CompileResult:
        self.state.library = _PartLibrary(self.state.targetctx.codegen(), func.__qualname__)
        return super().compile_extra(func)


class _PartLibrary(JITCodeLibrary):
    """Code for others to take in: it is optimised there, and no machine code is made of it here."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    @property
    def codegen(self) -> _PartLibrary:
        """What the caller sets the environment of machine code with: there is none."""
        return self

    def set_env(self, name: str, environment: Any) -> None:
        pass


@cache
def _part_of(dispatcher: type) -> type:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{self.py_func.__qualname__} is a part of compiled kernels: only compiled code can call it")

    return type("Part", (dispatcher,), {"__call__": call})


class _Cache:
    """The machine code of one function, as Numba's dispatchers ask for it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name = f"{function.__module__.removeprefix('tilegrad.kernels.')}.{function.__qualname__}"
        self._line = function.__code__.co_firstlineno

    @property
    def cache_path(self) -> str | None:
        folder = place()
        return None if folder is None else str(folder)

    def load_overload(self, signature: Any, context: Any) -> CompileResult | None:
        """The compiled code; None where there is none that can be used."""
        context.refresh()
        folder = place()
        if folder is None:
            return None
        key = self._key(signature, context.codegen())
        with contextlib.suppress(OSError):
            content = self._path(folder, key).read_bytes()
            if content[:_DIGEST] != _digest(key, content[_DIGEST:]):
                return None
            try:
                return CompileResult._rebuild(context, *pickle.loads(content[_DIGEST:]))
            except Exception:  # no damage, but what another build of Numba or LLVM wrote: they raise what they like
                return None
        return None

    def save_overload(self, signature: Any, compiled: CompileResult) -> None:
        """Keep the code, if it may be kept and there is a place."""
        folder = place()
        if folder is None or compiled.lifted or compiled.library.has_dynamic_globals:
            return
        key = self._key(signature, compiled.codegen)
        content = dumps(compiled._reduce())
        path = self._path(folder, key)
        partial = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
        with contextlib.suppress(OSError):
            _make(folder)
            try:
                partial.write_bytes(_digest(key, content) + content)
                if sources.stamp() is not None:  # else what was compiled meanwhile may be of other sources
                    os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)

    def flush(self) -> None:
        """As Numba's: forget what is on disk."""
        folder = place()
        for path in folder.glob(f"{self._name}.*") if folder is not None else ():
            path.unlink(missing_ok=True)

    def _key(self, signature: Any, codegen: Any) -> bytes:
        """All that the code depends on, but for the sources."""
        made_by = numba.__version__, sys.version, sys.implementation.cache_tag
        return repr((self._name, self._line, str(signature), codegen.magic_tuple(), made_by)).encode()

    def _path(self, folder: Path, key: bytes) -> Path:
        return folder / f"{self._name}.{hashlib.sha256(key).hexdigest()[:16]}.code"


def _digest(key: bytes, content: bytes) -> bytes:
    return hashlib.sha256(key + content).digest()


def place() -> Path | None:
    """Where code of these very sources is; None if there can be no such place."""
    base, stamp = _base(), sources.stamp()
    return None if base is None or stamp is None else base / f"tilegrad-cpu-{stamp}"


@cache
def _base() -> Path | None:
    try:
        return Path(FunctionCache(_base.__wrapped__).cache_path)
    except Exception:  # "no locator available", no home, or what a file system says
        return None


def _make(folder: Path) -> None:
    """Make the folder, and let go of those of other sources that were made before the last few."""
    if folder.is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    others = [path for path in folder.parent.glob("tilegrad-cpu-*") if path != folder]
    others.sort(key=lambda path: path.stat().st_mtime_ns)
    for path in others[:-_KEPT]:
        shutil.rmtree(path, ignore_errors=True)
