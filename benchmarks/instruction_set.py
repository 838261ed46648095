"""One instruction set for everyone, fixed before any numerical library is imported."""

import os

# Each library reads its own variable, once, when it is loaded.
_AVX2 = {
    "KDLOSS_ISA": "x86-64-v3",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # the names of NumPy 2.4
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own loops, and what torch.compile writes
    "TORCHINDUCTOR_CPP_MARCH": "x86-64-v3",
    # What it compiled before for AVX-512 it would take again, with wrong results.
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    "NUMBA_CPU_NAME": "x86-64-v3",
    "NUMBA_CPU_FEATURES": "",
}


def keep_to_avx2() -> None:
    """Have every library leave AVX-512 alone: what a laptop runs, on a server."""
    os.environ.update(_AVX2)
