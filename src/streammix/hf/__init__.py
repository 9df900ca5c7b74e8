"""Models of transformers: their hyper-connections made fast, and streams for models without; timm's ViTs too.

`streammix.hf` is loaded when it is first asked for, and needs transformers (pip install 'streammix[transformers]').
"""

try:
    import transformers as _transformers  # noqa: F401
except ImportError as error:
    raise ImportError(
        "streammix.hf needs transformers, which is not installed: pip install 'streammix[transformers]'"
    ) from error

from .accelerating import accelerate
from .adding import add_streams
from .loading import from_pretrained
from .restoring import restore

__all__ = ["accelerate", "add_streams", "from_pretrained", "restore"]
