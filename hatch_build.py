"""Build hook of the wheel: HATCH_BUILD_HOOK_ENABLE_CUSTOM=1 puts a compiled core into it.

Without the variable the wheel is pure Python. An editable installation always is: extension
modules in the source tree would win over sources edited since.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompiledCore(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the extension modules to the files of the wheel."""
        if version == "editable":
            return
        sys.path.insert(0, self.root)
        from tools.compiled import compile_core, missing

        if problem := missing():
            sys.exit(f"ustack: {problem}")
        self.work = tempfile.TemporaryDirectory()
        for name, path in compile_core(Path(self.root), Path(self.work.name)).items():
            build_data["force_include"][str(path)] = name
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
