"""The component file of a portable export: our two model files as one, for users who do not install this package."""

from __future__ import annotations

from pathlib import Path

import gencompress
from gencompress.core import resize
from gencompress.domains.diffusion import modeling

_HEAD = '''"""A pruned diffusers model, for `from_pretrained(..., trust_remote_code=True)`.

Written by gencompress {version} (Apache-2.0); with gencompress installed and imported this file is not needed.
"""

from __future__ import annotations
'''
_FOOT = """

with open(__file__, encoding="utf-8") as _file:
    Pruned{native} = pruned_class("{native}", "{module}", source=_file.read())
"""


def component_file(native: str) -> tuple[str, str]:
    """Module name and text of a file that defines ``Pruned<native>`` from torch and diffusers alone.

    The class carries the text along, so a pipeline that is saved again has the file again.
    """
    module = f"modeling_pruned_{native.lower()}"
    bodies = [_body(source) for source in (resize.__file__, modeling.__file__)]
    head = _HEAD.format(version=gencompress.__version__)
    return module, "".join([head, *bodies, _FOOT.format(native=native, module=module)])


def _body(path: str) -> str:
    """A source file without its docstring, its imports from this package and `__future__`."""
    text = Path(path).read_text(encoding="utf-8")
    text = text[text.index('"""', 3) + 3 :]
    dropped = ("from __future__", "from gencompress")
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(dropped)).rstrip() + "\n"
