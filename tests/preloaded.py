"""What processes that are forked for tests hold already (`forked`): imported in one go, then left alone by collections.

The collector would otherwise look at these hundreds of thousands of objects again and again, in every process.
"""

import gc
import importlib

gc.disable()
for name in (
    "echox.cli.main",
    "echox.api.model",
    "echox.training.loop",
    "echox.evaluation.run",
    "echox.serving.launch",
    "transformers.models.llama.modeling_llama",
):
    importlib.import_module(name)
gc.collect()
gc.freeze()
gc.enable()
